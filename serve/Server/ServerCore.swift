import Glibc
import GranuleTransport
import GranuleWire
import Logging

/// The server's state, confined to the event loop's thread: connections, totals, and what holds
/// them together.
final class ServerCore {
  let limits: ServerLimits
  let log: EventLog
  let admission: Admission
  let models: ResidentModels
  private let loop: EventLoop
  private let options: ServerOptions
  private let connectionsMax: Int
  private let started = ContinuousClock.now
  /// Set once, before anything is accepted.
  private var workers: ComputeWorkers?
  private var listeners: [Listener] = []
  private var connections: [UInt64: Connection] = [:]
  private var adminConnections = 0
  /// Connections beyond the limit that are being told so.
  private var refused: [ObjectIdentifier: RefusedConnection] = [:]
  private var lastConnection: UInt64 = 0
  private var lastSerial: UInt64 = 0
  private var isDraining = false

  /// Bytes that requests in flight and their largest possible responses take.
  var admittedBytes = 0
  /// Bytes that wait to be written, on all connections.
  var writeBytes = 0
  /// Bytes of memory for frames that have not arrived in full, on all connections.
  var receiveBytes = 0
  var metrics: ServerMetrics
  private var overload: OverloadEpisode
  /// Requests for which there was no room.
  private var refusedRequests: UInt64 = 0
  /// Requests that were cancelled, or whose client had gone, before they were answered.
  private var cancelledRequests: UInt64 = 0
  /// The last request at the last sweep, since when it has been so, and whether unused memory has
  /// been given back since.
  private var quiet = (serial: UInt64(0), since: ContinuousClock.now, isTrimmed: false)
  private let expiryTimer: LoopTimer
  /// When the timer is set for.
  private var nextExpiry: ContinuousClock.Instant?

  init(loop: EventLoop, options: ServerOptions, models: ResidentModels) {
    self.loop = loop
    self.options = options
    self.models = models
    limits = options.limits
    log = models.log
    metrics = ServerMetrics(modelsMax: options.limits.metricsModelsMax)
    overload = OverloadEpisode(quiet: options.limits.overloadQuiet)
    admission = Admission(limits: options.limits)
    expiryTimer = LoopTimer(loop: loop)
    connectionsMax = max(min(limits.connectionsMax, openFilesMax() - limits.filesReserved), 1)
  }

  /// Listens and starts everything that runs again and again.
  ///
  /// - Returns: the addresses, with the ports that were picked.
  func start(workers: ComputeWorkers) throws(EventLoopError) -> (
    address: SocketAddress, admin: SocketAddress
  ) {
    self.workers = workers
    let listener = try Listener(loop: loop, address: options.listen) { [unowned self] in
      self.accept($0, isAdmin: false)
    }
    let admin = try Listener(loop: loop, address: options.adminAddress(), ownerOnly: true) {
      [unowned self] in self.accept($0, isAdmin: true)
    }
    listeners = [listener, admin]
    if options.handlesSignals {
      for signal in [SIGTERM, SIGINT] { try watch(for: signal) }
    }
    LoopTimer(loop: loop).start(after: options.pollInterval, every: options.pollInterval) {
      [unowned self] in self.models.poll()
    }
    LoopTimer(loop: loop).start(after: limits.sweepInterval, every: limits.sweepInterval) {
      [unowned self] in self.sweep()
    }
    return (listener.address, admin.address)
  }

  private func watch(for signal: Int32) throws(EventLoopError) {
    _ = try SignalWatcher(loop: loop, signal: signal) { [unowned self] in
      // As a shell reports a process that the signal ended.
      if self.isDraining { _exit(128 + signal) }
      self.drain()
    }
  }

  private func sweep() {
    let now = ContinuousClock.now
    for connection in Array(connections.values) { connection.sweep(now) }
    reportOverload(now)
    trimWhenQuiet(now)
  }

  private func trimWhenQuiet(_ now: ContinuousClock.Instant) {
    guard admittedBytes == 0, lastSerial == quiet.serial else {
      quiet = (lastSerial, now, false)
      return
    }
    guard !quiet.isTrimmed, quiet.since.duration(to: now) >= limits.trimAfter else { return }
    quiet.isTrimmed = true
    models.trimMemory()
  }

  private func reportOverload(_ now: ContinuousClock.Instant) {
    let shed = workers?.statistics.shed ?? 0
    let refused = refusedRequests + metrics.refusedConnections
    switch overload.observe(shed: shed, refused: refused, now: now) {
    case .began:
      log.write(
        .overload, at: .warning,
        "overload: requests are given less than they asked for, or refused",
        ["phase": "began"])
    case .ended(let duration, let shed, let refused):
      log.write(
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
    // Administration must be possible where clients have taken all connections.
    let most = isAdmin ? limits.adminConnectionsMax : connectionsMax
    let open = isAdmin ? adminConnections : connections.count - adminConnections
    guard open < most else { return refuse(stream, open: open, limit: most) }
    if isAdmin { adminConnections += 1 }
    metrics.acceptedConnections += 1
    lastConnection += 1
    connections[lastConnection] = Connection(
      id: lastConnection, stream: stream, isAdmin: isAdmin, server: self)
  }

  private func refuse(_ stream: ByteStream, open: Int, limit: Int) {
    metrics.refusedConnections += 1
    guard refused.count < limits.filesReserved / 4 else { return stream.close() }
    let error = ServerError(
      .unavailable,
      "\(open) connections are open, the limit is \(limit); connect again later",
      retryAfterMilliseconds: limits.retryAfterMilliseconds)
    refused[ObjectIdentifier(stream)] = RefusedConnection(stream, error, limits) {
      [unowned self] in self.refused[ObjectIdentifier($0)] = nil
    }
  }

  /// Gives a connection its next turn once the others have had theirs.
  func nextTurn(of connection: UInt64) {
    let core = LoopBound(self, to: loop)
    loop.remote.post { loop in core.get(on: loop).connections[connection]?.takeTurn() }
  }

  /// Ends connections that hold the most memory for unfinished frames, until the others find room.
  func makeRoomToReceive() {
    while receiveBytes > limits.receiveBytesMax,
      let largest = connections.values.max(by: { $0.receiveBytes < $1.receiveBytes }),
      largest.receiveBytes > limits.receiveBytesFree
    {
      largest.giveUpReceiving()
    }
  }

  func closedAbnormally(_ reason: AbnormalClose, connection: UInt64, _ message: String) {
    metrics.record(reason)
    log.write(
      .connectionClosed, "connection closed: \(message)",
      ["connection": "\(connection)", "reason": "\(reason.rawValue)"])
  }

  func didClose(_ connection: Connection) {
    connections[connection.id] = nil
    if connection.isAdmin { adminConnections -= 1 }
    endIfDrained()
  }

  // MARK: Requests

  /// Lets a request in and queues it.
  ///
  /// - Throws: what `Admission.checkRoom` throws.
  /// - Parameter bytes: of the connection's requests in flight, and of what waits to be written to it.
  func compute(
    _ plan: Admission.Plan, connection: UInt64, bytes: Int, requestID: UInt64,
    timeoutMilliseconds: UInt32
  ) throws(ServerError) -> ComputeJob.Ticket {
    guard let workers else { throw ServerError(.internal, "the server has no workers") }
    lastSerial += 1
    let arrival = ContinuousClock.now
    let (method, tokens): (RequestMethod, Int) =
      switch plan.work {
      case .encode(_, let tokens, _, _): (.encode, tokens)
      case .decode(_, let tokens): (.decode, tokens)
      }
    let ticket = ComputeJob.Ticket(serial: lastSerial, method: method)
    do throws(ServerError) {
      try admission.checkRoom(
        tokens: tokens, bytes: plan.bytes,
        Admission.Occupancy(
          queue: workers.queue(of: connection, adding: tokens), bytes: admittedBytes + writeBytes,
          ownBytes: bytes))
    } catch {
      refusedRequests += 1
      throw error
    }
    let nextDeadline = workers.submit(
      ComputeJob(
        ticket: ticket, connection: connection, requestID: requestID, arrival: arrival,
        deadline: timeoutMilliseconds == 0
          ? nil : arrival + .milliseconds(Int64(timeoutMilliseconds)),
        version: plan.version, work: plan.work, frameBytesMax: limits.frameBytesMax))
    admittedBytes += plan.bytes
    if timeoutMilliseconds > 0 { expire(at: nextDeadline) }
    return ticket
  }

  /// Drops what has waited too long at `deadline`, unless that happens earlier anyway.
  private func expire(at deadline: ContinuousClock.Instant?) {
    guard let deadline, deadline < nextExpiry ?? deadline + .seconds(1) else { return }
    nextExpiry = deadline
    let delay = ContinuousClock.now.duration(to: deadline)
    expiryTimer.start(after: max(delay, .zero)) { [unowned self] in
      self.nextExpiry = nil
      guard let (answers, jobs, next) = self.workers?.removeExpired() else { return }
      for answer in answers { self.deliver(answer) }
      for job in jobs { self.models.release(job.version) }
      self.expire(at: next)
    }
  }

  /// Nobody waits for the answer any more: what has not been started is dropped.
  func cancel(_ ticket: ComputeJob.Ticket, bytes: Int) {
    ticket.cancel()
    cancelledRequests += 1
    metrics.record(ticket.method, .cancelled)
    admittedBytes -= bytes
    if let job = workers?.remove(ticket.serial) { models.release(job.version) }
  }

  func deliver(_ answer: ComputeWorkers.Answer) {
    connections[answer.connection]?.deliver(answer)
  }

  func administer(
    _ change: ResidentModels.Change, name: String, connection: UInt64, requestID: UInt64
  ) {
    let remote = loop.remote
    let core = LoopBound(self, to: loop)
    models.submit(change, to: name) { result in
      remote.post { loop in
        core.get(on: loop).connections[connection]?.deliver(result, requestID: requestID)
      }
    }
  }

  func status() -> ServerStatus {
    let statistics = workers?.statistics ?? ComputeWorkers.Statistics()
    let uptime = started.duration(to: .now)
    return ServerStatus(
      ready: isReady, serverVersion: Server.version,
      connections: UInt32(clamping: connections.count),
      queuedRequests: UInt32(clamping: statistics.waitingRequests),
      queuedTokens: UInt64(statistics.waitingTokens), uptimeSeconds: uptime / .seconds(1),
      pressure: UInt32(statistics.pressure), computedRequests: statistics.started,
      batches: statistics.batches, shedRequests: statistics.shed,
      refusedRequests: refusedRequests, expiredRequests: statistics.expired,
      cancelledRequests: cancelledRequests)
  }

  /// Whether requests are taken.
  var isReady: Bool { models.hasPolled && !isDraining }

  /// What metrics tell.
  func snapshot() -> MetricsSnapshot {
    MetricsSnapshot(
      status: status(), connectionsMax: connectionsMax,
      expectedWait: workers?.statistics.expectedWait ?? .zero, admittedBytes: admittedBytes,
      writeBytes: writeBytes, receiveBytes: receiveBytes, counts: metrics, loads: models.counts,
      suppressedLogLines: log.suppressed, models: models.list(),
      modelsMax: limits.metricsModelsMax)
  }

  // MARK: Stopping

  /// Takes no more connections and requests, answers what was admitted, and ends the loop; after
  /// the drain timeout at the latest.
  func drain() {
    guard !isDraining else { return }
    isDraining = true
    log.write(.stop, "stopping: \(connections.count) connections to see out")
    options.willStop()
    for listener in listeners { listener.close() }
    LoopTimer(loop: loop).start(after: options.drainTimeout) { [unowned self] in
      for _ in self.connections { self.metrics.record(.drainTimeout) }
      self.log.write(
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

/// A connection that gets one error and is seen out.
private final class RefusedConnection: ByteStreamHandler {
  private let closed: (ByteStream) -> Void

  init(
    _ stream: ByteStream, _ error: ServerError, _ limits: ServerLimits,
    closed: @escaping (ByteStream) -> Void
  ) {
    self.closed = closed
    stream.setHandler(self)
    let frame = Response(id: 0, result: .failure(error)).packed()
    stream.write(frame.bytes, owner: frame)
    stream.finish(discardBytesMax: limits.discardBytesMax, within: limits.finish)
  }

  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer {
    preconditionFailure("a stream that finishes reads into no buffer of its user's")
  }
  func stream(_ stream: ByteStream, received count: Int) {}
  func streamEnded(_ stream: ByteStream) {}
  func streamWrote(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, error: EventLoopError?) { closed(stream) }
}

/// How many files the process may open, after raising that to what the system allows.
private func openFilesMax() -> Int {
  var limit = rlimit()
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
  limit.rlim_cur = limit.rlim_max
  setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
  return Int(clamping: limit.rlim_cur)
}
