import GranuleCalls
import GranuleEngine
import GranuleHTTP
import GranuleNative
import GranuleTransport
import GranuleWire

/// One client's connection: bytes to calls, replies to bytes. Confined to the event loop's thread.
///
/// How it works:
/// 1. requests are cut from what arrives and submitted to the engine one by one; frames that answer
///    them go out as they come, in any order;
/// 2. a client that reads too slowly, or has too much in flight, is not read from for a while;
/// 3. a client that has lost track of the protocol gets one last error with id 0, and is ended in
///    good order.
final class Connection: ByteStreamHandler {
  private enum State {
    /// Requests are read as they arrive; this many frames may be answered before others have their
    /// turn, in however many readings they arrive.
    case reading(framesLeft: Int)
    /// Nothing is read until the reasons have passed.
    case paused(Pause)
    /// Nothing more will be read. What is in flight is answered, then the connection finishes.
    case answering(afterPeersEnd: Bool)
    /// The last bytes are on their way, and nothing is in flight.
    case finishing
    case closed
  }

  private struct Pause {
    struct Reasons: OptionSet {
      let rawValue: Int
      /// Other connections have their turn.
      static let turn = Reasons(rawValue: 1)
      /// Too much waits to be written, or is in flight.
      static let room = Reasons(rawValue: 2)
    }
    var reasons: Reasons
    /// Frames left of the turn.
    var framesLeft: Int
    /// The client will send no more than has arrived.
    var peerHasEnded = false
  }

  /// A request that has not been answered in full.
  private struct InFlight {
    let ticket: Ticket
    /// Tells the request from an earlier one with the same id.
    let serial: UInt64
  }

  let id: UInt64
  /// Whether administration is answered here.
  var isAdmin: Bool { account.principal.mayAdminister }
  private let stream: ByteStream
  private let account: Ledger.Account
  private unowned let server: ServerCore
  private let limits: ServerLimits
  private var state: State
  private var reader: NativeReader
  private var inFlight: [UInt64: InFlight] = [:]
  private var lastSerial: UInt64 = 0
  private var lastActive: ContinuousClock.Instant
  private var sending: ProgressWatch
  private var reading: ProgressWatch
  /// All that the peer has sent, and all that has been sent to it or waits to be.
  private var bytesReceived = 0
  private var bytesAnswered = 0

  init(id: UInt64, stream: ByteStream, account: Ledger.Account, server: ServerCore) {
    self.id = id
    self.stream = stream
    self.account = account
    self.server = server
    limits = server.limits
    state = .reading(framesLeft: limits.framesPerTurnMax)
    reader = Self.reader(limits)
    lastActive = .now
    sending = ProgressWatch(window: limits.stall, bytesPerSecondMin: limits.bytesPerSecondMin)
    reading = ProgressWatch(window: limits.stall, bytesPerSecondMin: limits.bytesPerSecondMin)
    stream.setHandler(self)
    stream.resumeReading()
  }

  private static func reader(_ limits: ServerLimits) -> NativeReader {
    NativeReader(
      frameBytesMax: limits.frameBytesMax, requestMemoryBytesMax: limits.requestMemoryBytesMax)
  }

  /// Whether more requests may be read.
  private var isOpen: Bool {
    switch state {
    case .reading, .paused: true
    case .answering, .finishing, .closed: false
    }
  }

  // MARK: Reading

  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer { reader.decoder.space() }

  func streamLacksSpace(_ stream: ByteStream) {
    refuse(
      .receiveMemory,
      ServerError(
        .resourceExhausted,
        "there is no memory for a longer frame than \(reader.decoder.bufferedBytes) bytes; connect again later",
        retryAfterMilliseconds: limits.engine.retryAfterMilliseconds))
  }

  func stream(_ stream: ByteStream, received count: Int) {
    reader.decoder.received(count)
    bytesReceived += count
    lastActive = .now
    readRequests()
  }

  private func readRequests() {
    do throws(ServerError) {
      while case .reading(let framesLeft) = state,
        let request = try reader.next(isInFlight: { inFlight[$0] != nil })
      {
        submit(request)
        goOn(framesLeft: framesLeft - 1)
      }
    } catch {
      refuse(.badFrame, error)
    }
    // Nobody is to be ended for memory that lies empty.
    if reader.decoder.capacityBytes > limits.receiveBytesFree { reader.decoder.releaseUnused() }
    countBytes()
    server.makeRoomToReceive()
    finishIfAnswered()
  }

  /// Reads on after a frame, unless others have their turn or there is no room.
  private func goOn(framesLeft: Int) {
    var reasons: Pause.Reasons = []
    if framesLeft == 0 { reasons.insert(.turn) }
    if stream.queuedBytes > limits.writeQueueHighBytes
      || inFlight.count >= limits.requestsPerConnectionMax
    {
      reasons.insert(.room)
    }
    guard !reasons.isEmpty else { return state = .reading(framesLeft: framesLeft) }
    state = .paused(Pause(reasons: reasons, framesLeft: framesLeft))
    stream.pauseReading()
    if reasons.contains(.turn) { server.nextTurn(of: id) }
  }

  /// Goes on after other connections have had their turn.
  func takeTurn() { resume(hasTurn: true) }

  /// Goes on reading once nothing stands in the way any more.
  private func resume(hasTurn: Bool = false) {
    if case .paused(var pause) = state {
      if hasTurn {
        pause.reasons.remove(.turn)
        pause.framesLeft = limits.framesPerTurnMax
      }
      if stream.queuedBytes <= limits.writeQueueLowBytes,
        inFlight.count < limits.requestsPerConnectionMax
      {
        pause.reasons.remove(.room)
      }
      guard pause.reasons.isEmpty else { return state = .paused(pause) }
      state = .reading(framesLeft: pause.framesLeft)
      // What has arrived already comes first.
      readRequests()
      if case .reading = state {
        if pause.peerHasEnded { endReading() } else { stream.resumeReading() }
      }
    }
    finishIfAnswered()
  }

  /// Bytes of memory for a frame that has not arrived in full; 0 once no more are read.
  var receiveBytes: Int { isOpen ? reader.decoder.countedBytes : 0 }

  /// Ends the connection, so that others can receive. No frame may be in use.
  func giveUpReceiving(_ held: Int) {
    refuse(
      .receiveMemory,
      ServerError(
        .unavailable,
        "connections hold \(held) bytes of unfinished frames, this one the most, \(receiveBytes); the limit is \(limits.receiveBytesMax); connect again later",
        retryAfterMilliseconds: limits.engine.retryAfterMilliseconds))
    forgetReceived()
  }

  private func forgetReceived() {
    reader = Self.reader(limits)
    countBytes()
  }

  // MARK: Calls

  private func submit(_ request: ReceivedRequest) {
    switch request.body {
    case .success(.call(let call)): submit(call, request)
    case .success(.cancel(let requestID)): cancel(requestID, request.id)
    case .failure(let error):
      server.engine.record(request.method, error.code)
      send(Response(id: request.id, result: .failure(error)))
    }
  }

  private func submit(_ call: Call, _ request: ReceivedRequest) {
    lastSerial += 1
    let sink = NativeSink(
      requestID: request.id, call: call, frameBytesMax: limits.frameBytesMax,
      send: server.sender(connection: id, requestID: request.id, serial: lastSerial))
    do throws(ServerError) {
      let submission = try server.engine.submit(
        call, from: account,
        deadline: Deadline(milliseconds: request.timeoutMilliseconds, after: .now),
        requestBytes: request.memoryBytes, to: sink)
      switch submission {
      case .answered(let reply):
        send(Response(id: request.id, result: .success(Response.Body(reply))))
      case .pending(let ticket):
        inFlight[request.id] = InFlight(ticket: ticket, serial: lastSerial)
      }
    } catch {
      send(Response(id: request.id, result: .failure(error)))
    }
  }

  private func cancel(_ requestID: UInt64, _ cancelID: UInt64) {
    let found = inFlight[requestID].map { server.engine.cancel($0.ticket) } ?? false
    if found {
      inFlight[requestID] = nil
      let error = ServerError(.cancelled, "the request was cancelled")
      send(Response(id: requestID, result: .failure(error)))
    }
    server.engine.record(.cancel, nil)
    send(Response(id: cancelID, result: .success(.cancel(found: found))))
  }

  // MARK: Answering

  /// Sends a frame that the engine's threads made, unless the request has been cancelled meanwhile.
  func deliver(_ frame: PackedFrame, requestID: UInt64, serial: UInt64, isLast: Bool) {
    guard let request = inFlight[requestID], request.serial == serial else { return }
    send(frame)
    if isLast {
      inFlight[requestID] = nil
      request.ticket.close()
    }
    resume()
  }

  private func send(_ response: Response) { send(response.packed()) }

  private func send(_ frame: PackedFrame) {
    bytesAnswered += frame.count
    lastActive = .now
    stream.write(frame.bytes, owner: frame)
    countBytes()
  }

  func streamWrote(_ stream: ByteStream) {
    countBytes()
    resume()
  }

  // MARK: Ending

  /// One last error with id 0, for a client that has lost track; what it has in flight is dropped.
  private func refuse(_ reason: AbnormalClose, _ error: ServerError) {
    guard isOpen else { return }
    server.closedAbnormally(reason, connection: id, "\(error)")
    dropRequests()
    send(Response(id: 0, result: .failure(error)))
    finish()
  }

  private func finish() {
    state = .finishing
    stream.finish(discardBytesMax: limits.discardBytesMax, within: limits.finish)
  }

  /// Reads nothing more because the server is stopping; what was admitted is still answered.
  func drain() {
    guard isOpen else { return }
    state = .answering(afterPeersEnd: false)
    stream.pauseReading()
    finishIfAnswered()
  }

  func streamEnded(_ stream: ByteStream) {
    switch state {
    case .reading: endReading()
    case .paused(var pause):
      pause.peerHasEnded = true
      state = .paused(pause)
    case .answering, .finishing, .closed: break
    }
    finishIfAnswered()
  }

  /// The client sends no more: part of a frame is of no use.
  private func endReading() {
    state = .answering(afterPeersEnd: true)
    forgetReceived()
  }

  /// Ends the connection once everything that was read has been answered.
  private func finishIfAnswered() {
    if case .answering = state, inFlight.isEmpty { finish() }
  }

  private func dropRequests() {
    for request in inFlight.values { server.engine.abandon(request.ticket) }
    inFlight = [:]
  }

  func streamClosed(_ stream: ByteStream, error: EventLoopError?) {
    switch state {
    case .reading, .paused, .answering(afterPeersEnd: true):
      if let error { server.closedAbnormally(.broken, connection: id, "\(error)") }
    case .answering, .finishing, .closed: break
    }
    state = .closed
    dropRequests()
    account.close()
    server.didClose(self)
  }

  /// Called now and then: ends what makes too little progress or is not used, and gives back memory.
  func sweep(_ now: ContinuousClock.Instant) {
    countBytes()
    let queued = stream.queuedBytes
    if reading.isStalled(isPending: queued > 0, bytes: bytesAnswered - queued, now: now) {
      server.closedAbnormally(
        .slowReader, connection: id,
        "responses are read at less than \(limits.bytesPerSecondMin) bytes a second over \(limits.stall)"
      )
      state = .finishing
      return stream.close()
    }
    // What the server does not read is not the peer's fault.
    let isReading = if case .reading = state { true } else { false }
    if sending.isStalled(
      isPending: isReading && reader.decoder.bufferedBytes > 0, bytes: bytesReceived, now: now)
    {
      return refuse(
        .slowSender,
        ServerError(
          .deadlineExceeded,
          "an unfinished frame arrives at less than \(limits.bytesPerSecondMin) bytes a second over \(limits.stall); connect again"
        ))
    }
    guard isReading, reader.decoder.bufferedBytes == 0 else { return }
    reader.decoder.releaseUnused()
    countBytes()
    if inFlight.isEmpty, queued == 0, lastActive.duration(to: now) > limits.idle {
      refuse(
        .idle,
        ServerError(
          .unavailable, "the connection was without requests for \(limits.idle); connect again"))
    }
  }

  private func countBytes() {
    account.setReceive(reader.decoder.countedBytes)
    account.setWrite(stream.queuedBytes)
  }
}
