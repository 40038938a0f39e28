public import ArgumentParser
import GranuleClient
public import GranuleTransport

/// Where a command finds its server.
struct ConnectionOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Where the server listens: HOST:PORT, [IPV6]:PORT or unix:PATH.", valueName: "address"))
  var server: SocketAddress

  func connect() async throws -> Client {
    ProcessSettings.ignoreBrokenPipes()
    return try await Client.connect(to: server)
  }
}

/// Where a command finds its server's administration.
struct AdminOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "The server's admin address, which its ready line names: unix:PATH or HOST:PORT.",
      valueName: "address"))
  var admin: SocketAddress

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  func connect() async throws -> Client {
    ProcessSettings.ignoreBrokenPipes()
    return try await Client.connect(to: admin)
  }
}

extension SocketAddress: ExpressibleByArgument {
  /// An address as it is written on the command line; nil where it cannot be read.
  public init?(argument: String) { try? self.init(argument) }
}
