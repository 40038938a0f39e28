public import GranuleTransport

/// What went wrong between a client and its server, except answers that are a `ServerError`.
public enum ClientError: Error, Sendable, Equatable, CustomStringConvertible {
  /// No connection could be made.
  case connectFailed(address: SocketAddress, reason: String)
  /// The connection ended while requests were in flight, or before this one was sent.
  case connectionLost(address: SocketAddress, reason: String)
  /// No answer came in time. The server knows the limit too: it drops an encode or decode request that
  /// it has not begun, but carries out a load, unload or resize.
  case timedOut(address: SocketAddress, limit: Duration)
  /// The server sent what the contract does not allow.
  case protocolViolation(address: SocketAddress, reason: String)
  /// `close()` was called.
  case closed(address: SocketAddress)

  /// What happened and what to check.
  public var description: String {
    switch self {
    case .connectFailed(let address, let reason):
      "cannot connect to \(address): \(reason); check that `granule serve` runs and listens there"
    case .connectionLost(let address, let reason):
      "connection to \(address) lost: \(reason); check the server's log, then connect again"
    case .timedOut(let address, let limit):
      "no answer from \(address) within \(limit); allow more time, or check the server's load with `granule status`"
    case .protocolViolation(let address, let reason):
      "\(address) does not speak this protocol: \(reason); check the address and both versions"
    case .closed(let address): "the client of \(address) was closed"
    }
  }
}
