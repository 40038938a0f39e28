import ArgumentParser
import SparseAutoencoder
import StrictJSON
import Tensors

struct ExportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract: "Write the first latents of a dictionary as a dictionary of their own.",
    discussion: """
      For tools that know no prefixes, such as SAELens and SAEBench: the folder loads with \
      SAE.load_from_disk and has the k (or the thresholds) that serve this granularity of the whole.

      EXAMPLE
        granule export runs/first --granularity 2048 --out first-2048/
      """)

  @Argument(help: "A dictionary folder, or a finished run of `granule train`.")
  var path: String
  @Option(help: "Number of latents to keep, from the first.")
  var granularity: Int
  @Option(help: "The folder for the dictionary; it must not be there yet.")
  var out: String
  @Flag(help: "Print JSON.")
  var json = false

  func run() async throws {
    try Folder.requireFree(out)
    let folder = try DictionaryLocation(path).folder
    let part = try SparseAutoencoder.prefix(ofFolder: folder, granularity: granularity)
    try part.write(newFolder: out)
    if json {
      print(
        StrictJSON.text([
          "out": .string(out), "latents": JSONValue(part.latents),
          "k": JSONValue(part.defaultK(at: part.latents)),
        ]))
    } else {
      let k = part.defaultK(at: part.latents)
      print(
        "Wrote the first \(part.latents.grouped) latents of \(folder)"
          + (k > 0 ? ", k \(k)," : "") + " to \(out)")
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
