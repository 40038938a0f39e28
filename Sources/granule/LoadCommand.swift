import ArgumentParser
import GranuleClient
import GranuleCommandLine

struct LoadCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load",
    abstract: "Serve one version of a model from now on, or follow the newest.",
    discussion: """
      EXAMPLE
        granule load smollm2 --version 3 --admin unix:models/.granule-admin.sock
        granule load smollm2 --version 2 --beside \\
          --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "Name of the model.")
  var name: String

  @Option(
    name: .customLong("version"),
    help: "Number of the version to serve and to keep. Default: follow the newest.")
  var modelVersion: UInt64?

  @Flag(
    help:
      "Keep the version in memory for requests that name it, and leave unchanged which is served.")
  var beside = false

  @OptionGroup var admin: AdminOptions

  func validate() throws {
    guard (modelVersion ?? 0) > 0 || !beside else {
      throw ValidationError("--beside needs --version: name the version to keep")
    }
  }

  func run() async throws {
    let model = try await admin.connect().loadModel(
      name, version: modelVersion ?? 0, beside: beside)
    show([model], json: admin.json)
  }
}
