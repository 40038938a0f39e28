import ArgumentParser
import GranuleBLAS
import GranuleEncoder
import GranuleServer

/// The command line: one subcommand a file.
@main
struct Granule: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
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

  static func main() async {
    BLAS.configure()
    await main(nil)
  }

  func validate() throws {
    if let complaint = EncoderCPU.complaint { throw ValidationError(complaint) }
  }
}
