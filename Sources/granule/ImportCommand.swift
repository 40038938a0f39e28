public import ArgumentParser
import Foundation
import GranuleDictionary
import GranuleFiles
public import GranuleInterchange
import GranuleTensors

// A public type's conformance to a public protocol: hence the public imports.
extension DictionaryFormat: ExpressibleByArgument {}

struct ImportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Read a dictionary that another library wrote, to order, evaluate and serve it.",
    discussion: """
      Recognises SAELens's folders (also training checkpoints of BatchTopK and Matryoshka), Gemma \
      Scope 1 (params.npz) and 2, folders of EleutherAI's sparsify, dictionary_learning's ae.pt and \
      OpenAI's .pt, which are read without running what is in them. Says what each setting became; \
      what cannot be served with the same outputs is refused, with the reason. docs/importing.md \
      lists both.

      The result is a dictionary folder: `granule order` sorts its latents and finds its \
      granularities, `granule publish` makes it available to a server. Large files are read in \
      pieces, so memory is that of the weights in float32.

      EXAMPLE
        granule import gemma-scope/layer_12/width_16k/average_l0_82/params.npz --out gemma/
        granule import sparsify-checkpoint/layers.10 --out pythia/
        granule import runs/ae.pt --granularities 512,2048,16384 --out matryoshka/
      """)

  @Argument(help: "A folder, or the file with the weights.")
  var path: String
  @Option(help: "The folder for the dictionary; it must not be there yet.")
  var out: String
  @Option(help: "What wrote it, where that is not recognised.")
  var format: DictionaryFormat?
  @Option(
    help: """
      The granularities that it was trained for, ascending, where the files do not record them (or to list \
      others).
      """)
  var granularities: Granularities?
  @Option(
    help: """
      What its training multiplied activations by, where the weights do not have it yet; it is folded \
      into them.
      """)
  var activationScale: Double?
  @Flag(
    help: """
      Sort latents by the mean squares that the file has of them (OpenAI's): a progressive coder \
      without activations.
      """)
  var sortLatents = false
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func run() async throws {
    try Folder.requireFree(out)
    var source = try DictionaryImport(path, format: format)
    source.granularities = granularities?.values
    source.activationScale = activationScale
    source.sortsLatents = sortLatents
    Interruption.install()
    let bytes = try source.byteCount()
    // Small files are there at once.
    var bar = ProgressBar(isQuiet: json || bytes < 64 << 20)
    func progress(_ what: String, from start: Double, bytes: Int) -> TransferProgress {
      TransferProgress(
        total: bytes, onProgress: { bar.update(fraction: start + $0 / 2, "\(what) \(path)") },
        shouldStop: { Interruption.isRequested })
    }
    let imported: DictionaryImport.Result
    do {
      imported = try source.read(progress: progress("reading", from: 0, bytes: bytes))
      try imported.dictionary.write(
        newFolder: out,
        progress: progress(
          "writing", from: 0.5, bytes: 8 * imported.dictionary.encoderWeights.count))
    } catch {
      bar.finish()
      if Interruption.isRequested { throw ExitCode(Interruption.exitCode) }
      throw error
    }
    bar.finish()
    let dictionary = imported.dictionary
    if json {
      print(
        StrictJSON.text([
          "out": .string(out), "format": .string(source.format.rawValue),
          "d_model": JSONValue(dictionary.dModel), "latents": JSONValue(dictionary.latents),
          "selection_rule": .string(dictionary.selectionRule.name),
          "granularities": dictionary.granularitiesJSON,
          "settings": .object(imported.notes.map { .init($0.setting, .string($0.effect)) }),
        ]))
    } else {
      print(
        "Imported \(source.weights) (\(source.format.rawValue)): d_model \(dictionary.dModel.grouped), "
          + "\(dictionary.latents.grouped) latents, into \(out)")
      for note in imported.notes { print("  \(note.setting): \(note.effect)") }
    }
  }
}
