import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleRepository
import GranuleTensors
import GranuleTraining

struct PublishCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "publish",
    abstract: "Publish a dictionary as the next version of a model.",
    discussion: """
      The dictionary is checked, copied beside the existing versions, described by a manifest with \
      sizes and digests, and renamed into place, so that a server of the repository sees it whole or \
      not at all. A server finds it within its --poll-interval (1 second by default), and serves it \
      once it is loaded and verified. A SAELens folder that `granule import` can read can be published \
      as it is; import the files of other libraries first.

      EXAMPLE
        granule publish runs/first --repository models --name smollm2
        granule publish runs/first --repository models --name small \\
          --granularity 2048
        granule publish my-saelens-folder --repository models --name imported \\
          --keep 3
      """)

  @Argument(help: "Finished run of `granule train`, or dictionary folder.")
  var path: String
  @Option(help: "Folder of the model repository; it is made if it does not exist.")
  var repository: String
  @Option(help: "Name of the model: letters, digits, '.', '_' and '-'.")
  var name: String
  @Option(help: "Number of latents to publish, from the first. Default: all.")
  var granularity: Int?
  @Option(help: "Number of newest versions to keep; older ones are removed. Default: all.")
  var keep: Int?
  @OptionGroup var result: ResultOptions

  func validate() throws { try require("--keep", keep, atLeast: 1) }

  func run() async throws {
    let location = try DictionaryLocation(path)
    var folder = location.folder
    var temporary: String?
    defer { if let temporary { try? FileManager.default.removeItem(atPath: temporary) } }
    if let granularity {
      let part = try dictionary(folder, granularity: granularity)
      folder = NSTemporaryDirectory() + "/granule-publish-\(UUID().uuidString)"
      temporary = folder
      try Folder.make(folder)
      try part.write(to: folder)
    }
    let version = try ModelRepository(path: repository).publish(
      folder: folder, name: name, keep: keep)
    if result.json {
      print(StrictJSON.text(["name": .string(name), "version": .integer(Int64(version))]))
    } else {
      let part = granularity.map { "the first \($0.grouped) latents of " } ?? ""
      print("Published \(part)\(location.folder) as \(name), version \(version), in \(repository)")
    }
  }
}
