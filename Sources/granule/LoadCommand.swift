import ArgumentParser
import GranuleClient

/// `granule load`: serve a version, and keep to it or follow the newest.
struct LoadCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load",
    abstract: "Serve a version of a model and keep to it, or follow the newest.",
    discussion: """
      EXAMPLE
        granule load smollm2 --version 3 --admin unix:models/.granule-admin.sock
        granule load smollm2 --version 2 --beside --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "The model's name.")
  var name: String

  @Option(
    name: .customLong("version"),
    help: ArgumentHelp("The version to keep to; without it the newest is followed."))
  var modelVersion: UInt64?

  @Flag(
    help: "Keep the version for requests that name it, and go on serving the one that serves.")
  var beside = false

  @OptionGroup var admin: AdminOptions

  func validate() throws {
    guard (modelVersion ?? 0) > 0 || !beside else {
      throw ValidationError("--beside: needs --version")
    }
  }

  func run() async throws {
    let model = try await admin.connect().loadModel(
      name, version: modelVersion ?? 0, beside: beside)
    show([model], json: admin.json)
  }
}
