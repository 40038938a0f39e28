import ArgumentParser
import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleRepository
import GranuleTensors

struct PublishCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "publish",
    abstract: "Publish a dictionary as the next version of a model.",
    discussion: """
      The dictionary is checked, copied beside the versions there are, described by a manifest with \
      sizes and digests, and renamed into place: servers of the repository see it whole or not at \
      all, find it within their --poll-interval, a second by default, and serve it once it is loaded \
      and verified. Any dictionary folder of SAELens can be \
      published, if `granule import` reads it; import what other libraries wrote.

      EXAMPLE
        granule publish runs/first --repository models --name smollm2-block10
        granule publish runs/first --repository models --name small --granularity 2048
        granule publish my-saelens-folder --repository models --name imported --keep 3
      """)

  @Argument(help: "A finished run of `granule train`, or a dictionary folder.")
  var path: String
  @Option(help: "The model repository, a folder; it is made where there is none.")
  var repository: String
  @Option(help: "The model's name: letters, digits, '.', '_' and '-'.")
  var name: String
  @Option(help: "Publish only the first so many latents, as a dictionary of their own.")
  var granularity: Int?
  @Option(help: "Remove older versions so that at most so many remain.")
  var keep: Int?
  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    if let keep, keep < 1 { throw ValidationError("--keep is \(keep), at least 1 must remain") }
  }

  func run() async throws {
    let location = try DictionaryLocation(path)
    var folder = location.folder
    var temporary: String?
    defer { if let temporary { try? FileManager.default.removeItem(atPath: temporary) } }
    if let granularity {
      let part = try SparseAutoencoder.prefix(ofFolder: folder, granularity: granularity)
      folder = NSTemporaryDirectory() + "/granule-publish-\(UUID().uuidString)"
      temporary = folder
      try Folder.make(folder)
      try part.write(to: folder)
    }
    let version = try ModelRepository(path: repository).publish(
      folder: folder, name: name, keep: keep)
    if json {
      print(StrictJSON.text(["name": .string(name), "version": .integer(Int64(version))]))
    } else {
      let part = granularity.map { "the first \($0.grouped) latents of " } ?? ""
      print("Published \(part)\(location.folder) as \(name), version \(version), in \(repository)")
    }
  }
}
