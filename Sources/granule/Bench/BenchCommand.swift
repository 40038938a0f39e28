import ArgumentParser

struct BenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measure how fast Granule's parts run on this machine.",
    subcommands: [BenchEncodeCommand.self, BenchModelCommand.self, BenchServeCommand.self])
}
