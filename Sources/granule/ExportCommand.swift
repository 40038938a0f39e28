import ArgumentParser
import GranuleDictionary
import GranuleFiles
import GranuleInterchange
import GranuleTensors

struct ExportCommand: AsyncParsableCommand {
  /// The libraries that what is written loads in.
  enum Target: String, CaseIterable, ExpressibleByArgument { case saelens, sparsify }

  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract: "Write a dictionary, or its first latents as one of their own, for other tools.",
    discussion: """
      For tools that know no prefixes, such as SAELens and SAEBench: the folder loads with \
      SAE.load_from_disk (--to saelens), or with SparseCoder.load_from_disk of EleutherAI's sparsify \
      (--to sparsify, TopK only), and has the k (or the thresholds) that serve this granularity of \
      the whole.

      EXAMPLE
        granule export runs/first --granularity 2048 --out first-2048/
        granule export runs/first --to sparsify --out for-sparsify/
      """)

  @Argument(help: "A dictionary folder, or a finished run of `granule train`.")
  var path: String
  @Option(help: "Number of latents to keep, from the first. Default: all.")
  var granularity: Int?
  @Option(help: ArgumentHelp("Who is to load it.", valueName: "saelens|sparsify"))
  var to = Target.saelens
  @Option(help: "The folder for the dictionary; it must not be there yet.")
  var out: String
  @Flag(help: "Print JSON.")
  var json = false

  func run() async throws {
    try Folder.requireFree(out)
    let folder = try DictionaryLocation(path).folder
    let part =
      try granularity.map { try SparseAutoencoder.prefix(ofFolder: folder, granularity: $0) }
      ?? SparseAutoencoder(folder: folder)
    switch to {
    case .saelens: try part.write(newFolder: out)
    case .sparsify: try part.writeSparsify(newFolder: out)
    }
    let k = part.defaultK(at: part.latents)
    if json {
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

extension SparseAutoencoder {
  /// The first latents of the dictionary in a folder, as a dictionary of their own.
  ///
  /// - Throws: `CommandError` where it has fewer.
  static func prefix(ofFolder folder: String, granularity: Int) throws -> SparseAutoencoder {
    let whole = try SparseAutoencoder(folder: folder)
    guard (1...whole.latents).contains(granularity) else {
      throw CommandError(
        "--granularity is \(granularity), the dictionary has \(whole.latents) latents")
    }
    return whole.standalone(granularity: granularity)
  }
}
