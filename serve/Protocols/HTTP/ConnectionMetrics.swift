/// Why a connection ended that its client did not end in good order.
package enum AbnormalClose: String, Sendable, CaseIterable {
  /// The client sent something that is not a request, or a request's id twice.
  case badFrame = "bad_frame"
  /// Unfinished frames took too much memory.
  case receiveMemory = "receive_memory"
  /// A frame arrived too slowly.
  case slowSender = "slow_sender"
  /// Responses were read too slowly.
  case slowReader = "slow_reader"
  /// No requests for too long.
  case idle
  /// The network failed, or the client broke the connection off.
  case broken
  /// Requests were still in flight when the server had to stop.
  case drainTimeout = "drain_timeout"
}

/// Counts of connections.
package struct ConnectionMetrics: Sendable {
  /// Connections that may be open at once.
  package let connectionsMax: Int
  /// Connections taken.
  package var accepted: UInt64 = 0
  /// Connections beyond the limit.
  package var refused: UInt64 = 0
  /// Connections that did not end by their client's wish.
  package private(set) var abnormalCloses: [AbnormalClose: UInt64] = [:]

  /// Counts of nothing yet.
  package init(connectionsMax: Int) { self.connectionsMax = connectionsMax }

  /// A connection ended.
  package mutating func record(_ close: AbnormalClose) { abnormalCloses[close, default: 0] += 1 }
}
