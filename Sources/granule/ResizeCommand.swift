import ArgumentParser
import GranuleClient

/// `granule resize`: how many latents of a model are in memory.
struct ResizeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resize",
    abstract: "Keep only the first latents of a model in memory, or all again.",
    discussion: """
      EXAMPLE
        granule resize smollm2 --granularity 4096 --admin unix:models/.granule-admin.sock
      """)

  @Argument(help: "The model's name.")
  var name: String

  @Option(help: ArgumentHelp("Latents to keep in memory; 0: all.", valueName: "latents"))
  var granularity: UInt32

  @OptionGroup var admin: AdminOptions

  func run() async throws {
    let model = try await admin.connect().resizeModel(name, granularity: granularity)
    show([model], json: admin.json)
  }
}
