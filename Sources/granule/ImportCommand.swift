public import ArgumentParser
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
public import GranuleInterchange
import GranuleReports
import GranuleTensors

// A public type's conformance to a public protocol needs public imports.
extension DictionaryFormat: ExpressibleByArgument {}

struct ImportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Read a dictionary that another library wrote, to order, evaluate and serve it.",
    discussion: """
      The input may be a SAELens folder (also a training checkpoint of BatchTopK and Matryoshka), \
      Gemma Scope 1 (params.npz) or 2, a folder of EleutherAI's sparsify, dictionary_learning's ae.pt \
      or OpenAI's .pt; pickles are read without running the code in them. The command prints what each \
      setting became, and refuses with the reason a dictionary that it could not serve with the same \
      outputs. docs/importing.md lists both.

      The result is a dictionary folder: `granule order` sorts its latents and finds its \
      granularities, and `granule publish` makes it available to a server. Large files are read in \
      pieces, so the memory needed is that of the weights in float32.

      EXAMPLE
        granule import gemma-scope/layer_12/width_16k/average_l0_82/params.npz \\
          --out gemma/
        granule import sparsify-checkpoint/layers.10 --out pythia/
        granule import runs/ae.pt --granularities 512,2048,16384 --out matryoshka/
      """)

  @Argument(help: "Folder of the dictionary, or file of its weights.")
  var path: String
  @Option(help: "Folder to write the dictionary to; it must not exist yet.")
  var out: String
  @Option(help: "Format of the input. Default: recognised from the files.")
  var format: DictionaryFormat?
  @Option(
    help: """
      Granularities that the dictionary was trained for, ascending. Default: those that the files \
      record.
      """)
  var granularities: Granularities?
  @Option(
    help: """
      Factor by which training multiplied activations, to be folded into weights that do not contain \
      it yet.
      """)
  var activationScale: Double?
  @Flag(
    help: """
      Sort latents by the mean squares that the file records (OpenAI's), which gives granularities \
      without activations.
      """)
  var sortLatents = false
  @OptionGroup var result: ResultOptions

  func run() async throws {
    try Folder.requireFree(out)
    var source = try DictionaryImport(path, format: format)
    source.granularities = granularities?.values
    source.activationScale = activationScale
    source.sortsLatents = sortLatents
    let bytes = try source.byteCount()
    // A file below 64 MiB is read too soon for a bar.
    let bar = ProgressBar(isQuiet: result.json || bytes < 64 << 20)
    let imported = try Interruption.guarding(bar) {
      func progress(_ work: String, from start: Double, bytes: Int) -> TransferProgress {
        TransferProgress(
          total: bytes, onProgress: { bar.update(fraction: start + $0 / 2, "\(work) \(path)") },
          shouldStop: { Interruption.isRequested })
      }
      let imported = try source.read(progress: progress("reading", from: 0, bytes: bytes))
      try imported.dictionary.write(
        newFolder: out,
        progress: progress(
          "writing", from: 0.5, bytes: 8 * imported.dictionary.encoderWeights.count))
      return imported
    }
    let dictionary = imported.dictionary
    if result.json {
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
