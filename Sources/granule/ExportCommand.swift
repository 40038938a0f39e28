import ArgumentParser
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleInterchange
import GranuleReports
import GranuleTensors
import GranuleTraining

struct ExportCommand: AsyncParsableCommand {
  /// The libraries that can load the result.
  enum Target: String, CaseIterable, ExpressibleByArgument { case saelens, sparsify }

  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract:
      "Write a dictionary, or its first latents as a dictionary of their own, for other tools.",
    discussion: """
      Tools such as SAELens and SAEBench know no granularities; they load the folder that this \
      command writes with SAE.load_from_disk (--to saelens), or with SparseCoder.load_from_disk of \
      EleutherAI's sparsify (--to sparsify, TopK only). The folder has the k or the thresholds with \
      which this granularity of the whole dictionary is served.

      EXAMPLE
        granule export runs/first --granularity 2048 --out first-2048/
        granule export runs/first --to sparsify --out for-sparsify/
      """)

  @Argument(help: "Dictionary folder, or finished run of `granule train`.")
  var path: String
  @Option(help: "Number of latents to keep, from the first. Default: all.")
  var granularity: Int?
  @Option(help: ArgumentHelp("Library to write for.", valueName: "saelens|sparsify"))
  var to = Target.saelens
  @Option(help: "Folder to write the dictionary to; it must not exist yet.")
  var out: String
  @OptionGroup var result: ResultOptions

  func run() async throws {
    try Folder.requireFree(out)
    let folder = try DictionaryLocation(path).folder
    let part = try dictionary(folder, granularity: granularity)
    switch to {
    case .saelens: try part.write(newFolder: out)
    case .sparsify: try part.writeSparsify(newFolder: out)
    }
    let k = part.defaultK(at: part.latents)
    if result.json {
      print(
        StrictJSON.text([
          "out": .string(out), "to": .string(to.rawValue), "latents": JSONValue(part.latents),
          "k": JSONValue(k),
        ]))
    } else {
      print(
        "Wrote " + (granularity == nil ? "all" : "the first")
          + " \(part.latents.grouped) latents of \(folder)" + (k > 0 ? ", k \(k)," : "")
          + " to \(out), for \(to.rawValue)")
    }
  }
}

/// The dictionary in a folder, or its first latents as a dictionary of their own.
///
/// - Throws: `CommandError.input` if it has fewer latents.
func dictionary(_ folder: String, granularity: Int?) throws -> SparseAutoencoder {
  let whole = try SparseAutoencoder(folder: folder)
  guard let granularity else { return whole }
  guard (1...whole.latents).contains(granularity) else {
    throw CommandError.input(
      "--granularity is \(granularity), but the dictionary has \(whole.latents) latents; name 1 to "
        + "\(whole.latents)")
  }
  return whole.standalone(granularity: granularity)
}
