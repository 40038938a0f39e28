package import ArgumentParser
import GranuleCommandLine
import GranuleServer

/// The benches: one subcommand per file.
@main
package struct Bench: AsyncParsableCommand {
  package static let configuration = CommandConfiguration(
    commandName: "granule-bench",
    abstract: "Measure how fast the parts of Granule are on this machine.",
    version: Server.version,
    subcommands: [
      EncodeCommand.self, TrainCommand.self, ServeCommand.self, ModelCommand.self,
    ])

  package init() {}

  package static func main() async { await start() }
}
