import Glibc
import GranuleCalls
import GranuleEngine
import GranuleHTTP
import GranuleNative
import GranuleTransport
import GranuleWire
import Logging

/// What listens: the listeners and connections of a server, confined to the event loop's thread.
final class ServerCore {
  let limits: ServerLimits
  let engine: Engine
  private let loop: EventLoop
  private let options: ServerOptions
  private var listeners: [Listener] = []
  private var connections: [UInt64: Connection] = [:]
  private var adminConnections = 0
  /// Connections beyond the limit that are being told so.
  private var refused: [ObjectIdentifier: RefusedConnection] = [:]
  private var lastConnection: UInt64 = 0
  private var isDraining = false
  private var metrics: ConnectionMetrics
  private var overload: OverloadEpisode

  init(loop: EventLoop, options: ServerOptions, engine: Engine) {
    self.loop = loop
    self.options = options
    self.engine = engine
    limits = options.limits
    metrics = ConnectionMetrics(
      connectionsMax: max(min(limits.connectionsMax, openFilesMax() - limits.filesReserved), 1))
    overload = OverloadEpisode(quiet: limits.overloadQuiet)
  }

  /// Listens, and begins to sweep.
  ///
  /// - Returns: the addresses, with the ports that were picked.
  func start() throws(EventLoopError) -> (address: SocketAddress, admin: SocketAddress) {
    let listener = try Listener(loop: loop, address: options.listen) { [unowned self] in
      self.accept($0, isAdmin: false)
    }
    let admin = try Listener(loop: loop, address: options.adminAddress(), ownerOnly: true) {
      [unowned self] in self.accept($0, isAdmin: true)
    }
    listeners = [listener, admin]
    LoopTimer(loop: loop).start(after: limits.sweepInterval, every: limits.sweepInterval) {
      [unowned self] in self.sweep()
    }
    return (listener.address, admin.address)
  }

  private func sweep() {
    let now = ContinuousClock.now
    for connection in Array(connections.values) { connection.sweep(now) }
    reportOverload(now)
    engine.sweep(now: now)
  }

  private func reportOverload(_ now: ContinuousClock.Instant) {
    let status = engine.status()
    let refused = status.refusedRequests + metrics.refused
    switch overload.observe(shed: status.shedRequests, refused: refused, now: now) {
    case .began:
      engine.log.write(
        .overload, at: .warning,
        "overload: requests are answered with less than they asked for, or refused",
        ["phase": "began"])
    case .ended(let duration, let shed, let refused):
      engine.log.write(
        .overload, "overload is over",
        [
          "phase": "ended", "seconds": "\(duration / .seconds(1))", "shed": "\(shed)",
          "refused": "\(refused)",
        ])
    case nil: break
    }
  }

  // MARK: Connections

  private func accept(_ stream: ByteStream, isAdmin: Bool) {
    // Administration must be possible even if clients have taken all connections.
    let most = isAdmin ? limits.adminConnectionsMax : metrics.connectionsMax
    let open = isAdmin ? adminConnections : connections.count - adminConnections
    guard open < most else { return refuse(stream, open: open, limit: most) }
    if isAdmin { adminConnections += 1 }
    metrics.accepted += 1
    lastConnection += 1
    let account = engine.ledger.open(Principal(id: lastConnection, mayAdminister: isAdmin))
    connections[lastConnection] = Connection(
      id: lastConnection, stream: stream, account: account, server: self)
  }

  private func refuse(_ stream: ByteStream, open: Int, limit: Int) {
    metrics.refused += 1
    guard refused.count < limits.filesReserved / 4 else { return stream.close() }
    let error = ServerError(
      .unavailable,
      "\(open) connections are open, the limit is \(limit); connect again later",
      retryAfterMilliseconds: limits.engine.retryAfterMilliseconds)
    refused[ObjectIdentifier(stream)] = RefusedConnection(stream, error, limits) {
      [unowned self] in self.refused[ObjectIdentifier($0)] = nil
    }
  }

  /// Gives a connection its next turn once the others have had theirs.
  func nextTurn(of connection: UInt64) {
    let core = LoopBound(self, to: loop)
    loop.remote.post { loop in core.get(on: loop).connections[connection]?.takeTurn() }
  }

  /// What takes frames from the engine's threads to a connection.
  func sender(connection: UInt64, requestID: UInt64, serial: UInt64) -> NativeSink.Send {
    let core = LoopBound(self, to: loop)
    return { [remote = loop.remote] frame, isLast in
      remote.post { loop in
        core.get(on: loop).connections[connection]?.deliver(
          frame, requestID: requestID, serial: serial, isLast: isLast)
      }
    }
  }

  /// Ends connections that hold the most memory for unfinished frames, until the others find room.
  func makeRoomToReceive() {
    while engine.ledger.bytes.receive > limits.receiveBytesMax,
      let largest = connections.values.max(by: { $0.receiveBytes < $1.receiveBytes }),
      largest.receiveBytes > limits.receiveBytesFree
    {
      largest.giveUpReceiving(engine.ledger.bytes.receive)
    }
  }

  func closedAbnormally(_ reason: AbnormalClose, connection: UInt64, _ message: String) {
    metrics.record(reason)
    engine.log.write(
      .connectionClosed, "connection closed: \(message)",
      ["connection": "\(connection)", "reason": "\(reason.rawValue)"])
  }

  func didClose(_ connection: Connection) {
    connections[connection.id] = nil
    if connection.isAdmin { adminConnections -= 1 }
    endIfDrained()
  }

  /// What metrics tell.
  func snapshot() -> MetricsSnapshot {
    MetricsSnapshot(engine: engine.snapshot(), connections: metrics)
  }

  // MARK: Stopping

  /// Takes no more connections and requests, answers what was admitted, and ends the loop; after
  /// the drain timeout at the latest.
  func drain() {
    guard !isDraining else { return }
    isDraining = true
    engine.beginDraining()
    engine.log.write(.stop, "stopping: \(connections.count) connections are open")
    options.willStop()
    for listener in listeners { listener.close() }
    LoopTimer(loop: loop).start(after: options.drainTimeout) { [unowned self] in
      for _ in self.connections { self.metrics.record(.drainTimeout) }
      self.engine.log.write(
        .stop, at: .warning, "stopping: \(self.connections.count) connections were cut off")
      self.loop.shutdown()
    }
    for connection in Array(connections.values) { connection.drain() }
    endIfDrained()
  }

  private func endIfDrained() {
    if isDraining, connections.isEmpty { loop.shutdown() }
  }
}

/// How many files the process may open.
private func openFilesMax() -> Int {
  var limit = rlimit()
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
  return Int(clamping: limit.rlim_cur)
}
