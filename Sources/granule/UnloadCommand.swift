import ArgumentParser
import GranuleClient
import GranuleCommandLine

struct UnloadCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unload",
    abstract: "Stop serving a model until it is loaded again.",
    discussion: """
      EXAMPLE
        granule unload smollm2 --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "Name of the model.")
  var name: String

  @Option(
    name: .customLong("version"),
    help: "Number of a version that was loaded with --beside. Default: the whole model.")
  var modelVersion: UInt64?

  @OptionGroup var admin: AdminOptions

  func run() async throws {
    let model = try await admin.connect().unloadModel(name, version: modelVersion ?? 0)
    show([model], json: admin.json)
  }
}
