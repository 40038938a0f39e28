/// A server's load, and its counts since it started.
public struct ServerStatus: Sendable, Equatable {
  /// The repository has been read once, and the server is not stopping.
  public var ready: Bool
  /// The server's own version.
  public var serverVersion: String
  /// Connections open.
  public var connections: UInt32
  /// Requests that wait for a worker.
  public var queuedRequests: UInt32
  /// Tokens of the requests that wait.
  public var queuedTokens: UInt64
  /// Seconds since the server started.
  public var uptimeSeconds: Double
  /// By how many granularities requests with a least granularity are cut, because of load.
  public var pressure: UInt32
  /// Requests computed, in whole or in part; this and what follows count since the server started.
  public var computedRequests: UInt64
  /// Batches in which requests were computed.
  public var batches: UInt64
  /// Requests answered at a smaller granularity, or in fewer stages, than they asked for.
  public var shedRequests: UInt64
  /// Requests for which there was no room.
  public var refusedRequests: UInt64
  /// Requests whose time ran out while they waited.
  public var expiredRequests: UInt64
  /// Requests that were cancelled, or whose client had gone, before they were answered.
  public var cancelledRequests: UInt64

  /// A status.
  public init(
    ready: Bool, serverVersion: String, connections: UInt32, queuedRequests: UInt32,
    queuedTokens: UInt64, uptimeSeconds: Double, pressure: UInt32 = 0, computedRequests: UInt64 = 0,
    batches: UInt64 = 0, shedRequests: UInt64 = 0, refusedRequests: UInt64 = 0,
    expiredRequests: UInt64 = 0, cancelledRequests: UInt64 = 0
  ) {
    self.ready = ready
    self.serverVersion = serverVersion
    self.connections = connections
    self.queuedRequests = queuedRequests
    self.queuedTokens = queuedTokens
    self.uptimeSeconds = uptimeSeconds
    self.pressure = pressure
    self.computedRequests = computedRequests
    self.batches = batches
    self.shedRequests = shedRequests
    self.refusedRequests = refusedRequests
    self.expiredRequests = expiredRequests
    self.cancelledRequests = cancelledRequests
  }
}
