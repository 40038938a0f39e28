import ArgumentParser
import GranuleClient
import GranuleCommandLine
import GranuleFiles
import GranuleReports
import GranuleWire

struct StatusCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Show a server's load and the outcome of its requests.",
    discussion: """
      EXAMPLE
        granule status --server 127.0.0.1:7700
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var result: ResultOptions

  func run() async throws {
    let status = try await connection.connect().status(timeout: .seconds(10))
    guard !result.json else {
      let object: JSONValue = [
        "ready": .bool(status.ready), "server_version": .string(status.serverVersion),
        "connections": JSONValue(Int(status.connections)),
        "queued_requests": JSONValue(Int(status.queuedRequests)),
        "queued_tokens": JSONValue(Int(clamping: status.queuedTokens)),
        "uptime_seconds": .real(status.uptimeSeconds),
        "pressure": JSONValue(Int(status.pressure)),
        "computed_requests": JSONValue(Int(clamping: status.computedRequests)),
        "batches": JSONValue(Int(clamping: status.batches)),
        "shed_requests": JSONValue(Int(clamping: status.shedRequests)),
        "refused_requests": JSONValue(Int(clamping: status.refusedRequests)),
        "expired_requests": JSONValue(Int(clamping: status.expiredRequests)),
        "cancelled_requests": JSONValue(Int(clamping: status.cancelledRequests)),
      ]
      return print(StrictJSON.text(object, indented: true))
    }
    func count(_ number: UInt64) -> String { Int(clamping: number).grouped }
    print("ready            \(status.ready ? "yes" : "no")")
    print("version          \(status.serverVersion)")
    print("connections      \(status.connections)")
    print(
      "queued           \(status.queuedRequests) requests, \(count(status.queuedTokens)) tokens")
    print(
      "computed         \(count(status.computedRequests)) requests in \(count(status.batches)) batches"
    )
    print(
      "given less       \(count(status.shedRequests)) (now: \(status.pressure) granularities less)")
    print("refused          \(count(status.refusedRequests))")
    print("expired          \(count(status.expiredRequests))")
    print("cancelled        \(count(status.cancelledRequests))")
    print("uptime           \(status.uptimeSeconds.duration)")
  }
}
