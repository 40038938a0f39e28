import ArgumentParser
import Client
import StrictJSON
import Wire

/// `granule status`: how a server is.
struct StatusCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Show how a server is.",
    discussion: """
      EXAMPLE
        granule status --server 127.0.0.1:7700
      """)

  @OptionGroup var connection: ConnectionOptions

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  func run() async throws {
    let status = try await connection.connect().status(timeout: .seconds(10))
    guard !json else {
      let object: JSONValue = [
        "ready": .bool(status.ready), "server_version": .string(status.serverVersion),
        "connections": JSONValue(Int(status.connections)),
        "queued_requests": JSONValue(Int(status.queuedRequests)),
        "queued_tokens": JSONValue(Int(clamping: status.queuedTokens)),
        "uptime_seconds": .real(status.uptimeSeconds),
      ]
      return print(StrictJSON.text(object, indented: true))
    }
    print("ready            \(status.ready ? "yes" : "no")")
    print("version          \(status.serverVersion)")
    print("connections      \(status.connections)")
    print("queued requests  \(status.queuedRequests)")
    print("queued tokens    \(status.queuedTokens)")
    print("uptime           \(ProgressBar.duration(status.uptimeSeconds))")
  }
}
