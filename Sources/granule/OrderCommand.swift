public import ArgumentParser
import GranuleDictionary
import GranuleFiles
import GranuleTensors
public import GranuleTraining

// A public type's conformance to a public protocol: hence the public imports.
extension LatentOrdering: ExpressibleByArgument {}

struct OrderCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "order",
    abstract: "Sort a dictionary's latents, so that its prefixes become good dictionaries.",
    discussion: """
      Any dictionary folder, such as `granule import` writes from other libraries' files. Latents are \
      sorted in descending order of what they give on the activations named: the mean of the squared \
      activation, E[z²], times the squared norm of the decoder's row, which is best at every \
      granularity, or the frequency of being active. Reconstructions at full size do not change. \
      Each granularity's k is calibrated as `granule train` does it: as many latents as full-width \
      codes leave active there, on average.

      granule.safetensors keeps each latent's index in the dictionary that was ordered first \
      (latent_order), also where one that is ordered already is ordered again; `granule inspect` \
      shows it.

      EXAMPLE
        granule order my-saelens-folder --activations activations/layer-10 \\
          --by mean-squared-activation --out ordered/
        granule order runs/topk --by frequency --granularities 512,2048,8192 --out by-frequency/
      """)

  @Argument(help: "A dictionary folder, or a finished run of `granule train`.")
  var path: String
  @Option(
    parsing: .upToNextOption,
    help: "Files or folders of activations. Default: what the run held out.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 0-35.")
  var sequences: SequenceRange?
  @Option(help: "What latents are sorted by: mean-squared-activation or frequency.")
  var by = LatentOrdering.meanSquaredActivation
  @Option(help: "Granularities to calibrate, ascending. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "The folder for the ordered dictionary; it must not be there yet.")
  var out: String
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func run() async throws {
    Interruption.install()
    try Folder.requireFree(out)
    let location = try DictionaryLocation(path)
    let dataset = try location.activations(paths: activations, sequences: sequences?.range)
    let dictionary = try SparseAutoencoder(folder: location.folder)
    var bar = ProgressBar(isQuiet: json)
    let ordered: SparseAutoencoder
    do {
      ordered = try by.order(
        dictionary, on: dataset, granularities: granularities?.values,
        onProgress: { bar.update(fraction: $0, "ordering by \(by.rawValue)") },
        shouldStop: { Interruption.isRequested })
    } catch is CancellationError {
      bar.finish()
      throw ExitCode(Interruption.exitCode)
    }
    bar.finish()
    try ordered.write(newFolder: out)
    if json {
      print(
        StrictJSON.text([
          "out": .string(out), "ordered_by": .string(by.rawValue),
          "tokens": JSONValue(dataset.tokens),
          "granularities": ordered.granularitiesJSON,
        ]))
    } else {
      print(
        "Ordered \(ordered.latents.grouped) latents by \(by.rawValue) on "
          + "\(dataset.tokens.grouped) tokens, into \(out)\n")
      print(ordered.granularityTable.text, terminator: "")
    }
  }
}
