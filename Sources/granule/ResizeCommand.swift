import ArgumentParser
import GranuleClient
import GranuleCommandLine

struct ResizeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resize",
    abstract: "Keep only the first latents of a model in memory, or all again.",
    discussion: """
      EXAMPLE
        granule resize smollm2 --granularity 4096 \\
          --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "Name of the model.")
  var name: String

  @Option(
    help: ArgumentHelp(
      "Number of latents to keep in memory, from the first; 0 keeps all.", valueName: "latents"))
  var granularity: UInt32

  @OptionGroup var admin: AdminOptions

  func run() async throws {
    let model = try await admin.connect().resizeModel(name, granularity: granularity)
    show([model], json: admin.json)
  }
}
