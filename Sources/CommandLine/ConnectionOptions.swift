public import ArgumentParser
package import GranuleClient
public import GranuleTransport

/// The server that a command asks.
package struct ConnectionOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Address of the server: HOST:PORT, [IPV6]:PORT or unix:PATH.", valueName: "address"))
  package var server: SocketAddress

  package init() {}

  package func connect() async throws -> Client { try await Client.connect(to: server) }
}

/// The server that a command administers.
package struct AdminOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Admin address of the server, as its ready line names it: unix:PATH or HOST:PORT.",
      valueName: "address"))
  package var admin: SocketAddress

  @Flag(name: .long, help: "Print JSON.")
  package var json = false

  package init() {}

  package func connect() async throws -> Client { try await Client.connect(to: admin) }
}

extension SocketAddress: ExpressibleByArgument {
  /// The address that `argument` names; nil if it names none.
  public init?(argument: String) { try? self.init(argument) }
}

/// The model that requests are for, and how many tokens each has.
package struct RequestOptions: ParsableArguments {
  @Option(help: "Name of the model.")
  package var model: String
  @Option(help: "Number of tokens per request.")
  package var batch = 256

  package init() {}

  package func validate() throws {
    try require("--batch", batch, in: 1...1 << 20, "tokens")
  }
}
