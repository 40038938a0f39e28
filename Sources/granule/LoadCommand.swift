import ArgumentParser
import Client

/// `granule load`: serve a version, and keep to it or follow the newest.
struct LoadCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load",
    abstract: "Serve a version of a model and keep to it, or follow the newest.",
    discussion: """
      EXAMPLE
        granule load smollm2 --version 3 --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "The model's name.")
  var name: String

  @Option(
    name: .customLong("version"),
    help: ArgumentHelp("The version to keep to; without it the newest is followed."))
  var modelVersion: UInt64 = 0

  @OptionGroup var admin: AdminOptions

  func run() async throws {
    let model = try await admin.connect().loadModel(name, version: modelVersion)
    show([model], json: admin.json)
  }
}
