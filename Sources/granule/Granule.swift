package import ArgumentParser
import GranuleCommandLine
import GranuleServer

/// The command line: one subcommand per file.
@main
package struct Granule: AsyncParsableCommand {
  package static let configuration = CommandConfiguration(
    commandName: "granule",
    abstract:
      "Progressive sparse autoencoders: train nested dictionaries, serve any prefix of them.",
    version: Server.version,
    subcommands: [
      HarvestCommand.self, TrainCommand.self, DistillCommand.self, EvaluateCommand.self,
      ImportCommand.self, OrderCommand.self, InspectCommand.self, OverlapCommand.self,
      ExportCommand.self,
      PublishCommand.self, ServeCommand.self,
      EncodeCommand.self, DecodeCommand.self, StatusCommand.self, ModelsCommand.self,
      LoadCommand.self, UnloadCommand.self, ResizeCommand.self, BenchCommand.self,
    ]
  )

  package init() {}

  package static func main() async { await start() }
}

/// `granule bench`, which is an executable of its own now.
struct BenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Name the executable that took its place.",
    shouldDisplay: false)

  @Argument(parsing: .captureForPassthrough)
  var arguments: [String] = []

  func run() async throws {
    throw CommandError.usage(
      "granule bench is an executable of its own now: run granule-bench "
        + arguments.joined(separator: " "))
  }
}
