public import ArgumentParser
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleTensors
public import GranuleTraining

// A public type's conformance to a public protocol needs public imports.
extension LatentOrdering: ExpressibleByArgument {}

struct OrderCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "order",
    abstract: "Sort a dictionary's latents so that its prefixes become good dictionaries.",
    discussion: """
      Any dictionary folder can be ordered, such as one that `granule import` wrote. Latents are \
      sorted in descending order of their contribution on the activations: the mean squared \
      activation, E[z²], times the squared norm of the decoder row, which is best at every \
      granularity, or the frequency of being active. Reconstructions at full size do not change. Each \
      granularity's k is calibrated as `granule train` does it: to the mean number of latents that \
      full-width codes leave active there.

      granule.safetensors keeps the index that each latent had before the first ordering \
      (latent_order), also if an ordered dictionary is ordered again; `granule inspect` shows it.

      EXAMPLE
        granule order my-saelens-folder --activations activations/layer-10 \\
          --by mean-squared-activation --out ordered/
        granule order runs/topk --by frequency --granularities 512,2048,8192 \\
          --out by-frequency/
      """)

  @Argument(help: "Dictionary folder, or finished run of `granule train`.")
  var path: String
  @OptionGroup var data: ActivationOptions
  @Option(help: "Measure to sort latents by: mean-squared-activation or frequency.")
  var by = LatentOrdering.meanSquaredActivation
  @Option(help: "Granularities to calibrate, ascending. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Folder to write the ordered dictionary to; it must not exist yet.")
  var out: String
  @OptionGroup var result: ResultOptions

  func run() async throws {
    try Folder.requireFree(out)
    let location = try DictionaryLocation(path)
    let dataset = try location.activations(
      paths: data.activations, sequences: data.sequences?.range)
    let dictionary = try SparseAutoencoder(folder: location.folder)
    let bar = ProgressBar(isQuiet: result.json)
    let ordered = try Interruption.guarding(bar) {
      try by.order(
        dictionary, on: dataset, granularities: granularities?.values,
        onProgress: { bar.update(fraction: $0, "ordering by \(by.rawValue)") },
        shouldStop: { Interruption.isRequested })
    }
    try ordered.write(newFolder: out)
    if result.json {
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
