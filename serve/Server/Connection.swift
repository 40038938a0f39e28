import GranuleTransport
import GranuleWire
import Logging

/// One client's connection: bytes to requests, answers to bytes. Confined to the event loop's
/// thread.
///
/// How it works:
/// 1. frames are cut from what arrives and answered one by one; answers go out as they come, in any
///    order;
/// 2. a client that reads too slowly, or has too much in flight, is not read from for a while;
/// 3. a client that has lost track of the protocol gets one last error with id 0, and is seen out
///    in good order.
final class Connection: ByteStreamHandler {
  /// A request that has not been answered.
  enum InFlight {
    /// Waits for a worker or is being computed; `bytes` are reserved for it.
    case computing(ComputeJob.Ticket, bytes: Int)
    /// Waits for the loader.
    case administration(RequestMethod)
  }

  let id: UInt64
  let stream: ByteStream
  /// Whether administration is answered here.
  let isAdmin: Bool
  private unowned let server: ServerCore
  private var decoder: FrameDecoder
  private(set) var inFlight: [UInt64: InFlight] = [:]
  /// Bytes that are reserved for those.
  private var admittedBytes = 0
  /// No more requests are read: an error has ended the connection, the peer has, or the server is
  /// stopping.
  private var isEnding = false
  private var isPaused = false
  /// Frames that may be answered before others have their turn; it may take several readings.
  private var framesLeft: Int
  /// Frames that have arrived wait while other connections have their turn.
  private var isYielding = false
  private var peerEnded = false
  private var lastActive: ContinuousClock.Instant
  private var sending: ProgressWatch
  private var reading: ProgressWatch
  /// All that the peer has sent, and all that has been sent to it or waits to be.
  private var bytesReceived = 0
  private var bytesAnswered = 0
  /// What the server's totals have been told of this connection.
  private var countedReceiveBytes = 0
  private var countedWriteBytes = 0

  init(id: UInt64, stream: ByteStream, isAdmin: Bool, server: ServerCore) {
    self.id = id
    self.stream = stream
    self.isAdmin = isAdmin
    self.server = server
    decoder = FrameDecoder(frameBytesMax: server.limits.frameBytesMax)
    framesLeft = server.limits.framesPerTurnMax
    lastActive = .now
    let limits = server.limits
    sending = ProgressWatch(window: limits.stall, bytesPerSecondMin: limits.bytesPerSecondMin)
    reading = ProgressWatch(window: limits.stall, bytesPerSecondMin: limits.bytesPerSecondMin)
    stream.setHandler(self)
    stream.resumeReading()
  }

  // MARK: Reading

  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer { decoder.space() }

  func streamLacksSpace(_ stream: ByteStream) {
    refuse(
      .receiveMemory,
      ServerError(
        .resourceExhausted,
        "there is no memory for a longer frame than \(decoder.bufferedBytes) bytes; connect again later",
        retryAfterMilliseconds: server.limits.retryAfterMilliseconds))
  }

  func stream(_ stream: ByteStream, received count: Int) {
    decoder.received(count)
    bytesReceived += count
    lastActive = .now
    readFrames()
  }

  private func readFrames() {
    do throws(FrameError) {
      while !isEnding, !isPaused, !isYielding, let payload = try decoder.nextFrame() {
        answer(payload)
        framesLeft -= 1
        if framesLeft == 0 { yield() }
      }
    } catch {
      refuse(.badFrame, ServerError(.resourceExhausted, "\(error)"))
    }
    // Nobody is to be ended for memory that lies empty.
    if decoder.capacityBytes > server.limits.receiveBytesFree { decoder.releaseUnused() }
    countBytes()
    if server.receiveBytes > server.limits.receiveBytesMax { server.makeRoomToReceive() }
    finishIfDone()
  }

  /// Bytes of memory for a frame that has not arrived in full; 0 once no more are read.
  var receiveBytes: Int { isEnding ? 0 : decoder.countedBytes }

  /// Ends the connection, so that others can receive. No frame may be in use.
  func giveUpReceiving() {
    refuse(
      .receiveMemory,
      ServerError(
        .unavailable,
        "connections hold \(server.receiveBytes) bytes of unfinished frames, this one the most, \(decoder.countedBytes); the limit is \(server.limits.receiveBytesMax); connect again later",
        retryAfterMilliseconds: server.limits.retryAfterMilliseconds))
    decoder = FrameDecoder(frameBytesMax: server.limits.frameBytesMax)
    countBytes()
  }

  /// Lets other connections have their turn before the next frame.
  private func yield() {
    isYielding = true
    stream.pauseReading()
    server.nextTurn(of: id)
  }

  /// Goes on after others have had their turn.
  func takeTurn() {
    isYielding = false
    framesLeft = server.limits.framesPerTurnMax
    // Paused meanwhile for another reason: that may have passed while this turn was awaited.
    guard !isEnding, !isPaused else { return readOn() }
    readFrames()
    if !isEnding, !isPaused, !isYielding { stream.resumeReading() }
  }

  private func answer(_ payload: UnsafeRawBufferPointer) {
    let request: ReceivedRequest
    do throws(UnpackingError) {
      request = try ReceivedRequest(
        unpacking: payload, memoryBytesMax: server.limits.requestMemoryBytesMax)
    } catch {
      let code: ErrorCode = error == .malformed ? .invalidArgument : .resourceExhausted
      return refuse(.badFrame, ServerError(code, "\(error)"))
    }
    guard request.id != 0 else {
      return refuse(
        .badFrame, ServerError(.invalidArgument, "id: is 0; each request needs one of its own"))
    }
    guard inFlight[request.id] == nil else {
      return refuse(
        .badFrame,
        ServerError(.invalidArgument, "id: \(request.id) is in flight already; use another"))
    }
    do throws(ServerError) {
      try start(request)
    } catch {
      server.metrics.record(RequestMethod(request.kind), error.code)
      send(Response(id: request.id, result: .failure(error)).packed())
    }
    if stream.queuedBytes > server.limits.writeQueueHighBytes
      || inFlight.count >= server.limits.requestsPerConnectionMax
    {
      isPaused = true
      stream.pauseReading()
    }
  }

  private func start(_ request: ReceivedRequest) throws(ServerError) {
    switch try request.body.get() {
    case .encode(let encode):
      try compute(
        request,
        server.admission.plan(encode, requestBytes: request.memoryBytes, server.models))
    case .decode(let decode):
      try compute(
        request,
        server.admission.plan(decode, requestBytes: request.memoryBytes, server.models))
    case .listModels: succeed(request, .listModels(server.models.list()))
    case .status: succeed(request, .status(server.status()))
    case .cancel(let id): cancel(id, request)
    case .loadModel(let name, let version, let beside):
      try administer(request, "load_model", .load(version: version, beside: beside), name)
    case .unloadModel(let name, let version):
      try administer(request, "unload_model", .unload(version: version), name)
    case .resizeModel(let name, let granularity):
      try administer(request, "resize_model", .resize(granularity: granularity), name)
    }
  }

  private func succeed(_ request: ReceivedRequest, _ body: Response.Body) {
    server.metrics.record(RequestMethod(request.kind), nil)
    send(Response(id: request.id, result: .success(body)).packed())
  }

  private func compute(_ request: ReceivedRequest, _ plan: Admission.Plan) throws(ServerError) {
    inFlight[request.id] = .computing(
      try server.compute(
        plan, connection: id, bytes: admittedBytes + stream.queuedBytes, requestID: request.id,
        timeoutMilliseconds: request.timeoutMilliseconds),
      bytes: plan.bytes)
    admittedBytes += plan.bytes
  }

  private func cancel(_ requestID: UInt64, _ request: ReceivedRequest) {
    guard case .computing(let ticket, let bytes)? = inFlight[requestID] else {
      return succeed(request, .cancel(found: false))
    }
    inFlight[requestID] = nil
    admittedBytes -= bytes
    server.cancel(ticket, bytes: bytes)
    let error = ServerError(.cancelled, "the request was cancelled")
    send(Response(id: requestID, result: .failure(error)).packed())
    succeed(request, .cancel(found: true))
  }

  private func administer(
    _ request: ReceivedRequest, _ verb: String, _ change: ResidentModels.Change, _ name: String
  ) throws(ServerError) {
    guard isAdmin else {
      throw ServerError(
        .permissionDenied, "\(verb): is answered at the server's admin address only")
    }
    inFlight[request.id] = .administration(RequestMethod(request.kind))
    server.administer(change, name: name, connection: id, requestID: request.id)
  }

  // MARK: Answering

  /// Sends what the workers made of a request or of a stage of it, unless it has been cancelled
  /// meanwhile.
  func deliver(_ answer: ComputeWorkers.Answer) {
    guard case .computing(let ticket, let bytes)? = inFlight[answer.requestID],
      ticket.serial == answer.serial
    else { return }
    switch answer.outcome {
    case .success(let measure): server.metrics.record(measure, isLast: answer.isLast)
    case .failure(let error): server.metrics.record(ticket.method, error.code)
    }
    if answer.isLast {
      if case .success = answer.outcome { server.metrics.record(ticket.method, nil) }
      inFlight[answer.requestID] = nil
      server.admittedBytes -= bytes
      admittedBytes -= bytes
    }
    send(answer.frame)
    readOn()
  }

  /// Sends what the loader made of a request.
  func deliver(_ result: Result<ModelStatus, ServerError>, requestID: UInt64) {
    guard case .administration(let method)? = inFlight[requestID] else { return }
    inFlight[requestID] = nil
    switch result {
    case .success: server.metrics.record(method, nil)
    case .failure(let error): server.metrics.record(method, error.code)
    }
    send(Response(id: requestID, result: result.map { .model($0) }).packed())
    readOn()
  }

  private func send(_ frame: PackedFrame) {
    bytesAnswered += frame.count
    lastActive = .now
    stream.write(frame.bytes, owner: frame)
    countBytes()
  }

  func streamWrote(_ stream: ByteStream) {
    countBytes()
    readOn()
  }

  /// Goes on reading where that was paused and there is room again.
  private func readOn() {
    if isPaused, !isEnding, !isYielding, stream.queuedBytes <= server.limits.writeQueueLowBytes,
      inFlight.count < server.limits.requestsPerConnectionMax
    {
      isPaused = false
      // What has arrived already comes first.
      readFrames()
      if !isPaused, !isYielding { stream.resumeReading() }
    }
    finishIfDone()
  }

  // MARK: Ending

  /// One last error with id 0, for a client that has lost track; what it has in flight is dropped.
  private func refuse(_ reason: AbnormalClose, _ error: ServerError) {
    guard !isEnding else { return }
    isEnding = true
    server.closedAbnormally(reason, connection: id, "\(error)")
    dropRequests()
    send(Response(id: 0, result: .failure(error)).packed())
    finish()
  }

  private func finish() {
    stream.finish(
      discardBytesMax: server.limits.discardBytesMax, within: server.limits.finish)
  }

  /// The server is stopping: nothing more is read, what was admitted is still answered.
  func drain() {
    isEnding = true
    stream.pauseReading()
    finishIfDone()
  }

  func streamEnded(_ stream: ByteStream) {
    peerEnded = true
    finishIfDone()
  }

  /// Ends the connection once everything that was asked for, and will be read, has been answered.
  private func finishIfDone() {
    guard inFlight.isEmpty, isEnding || (peerEnded && !isPaused && !isYielding) else { return }
    isEnding = true
    finish()
  }

  private func dropRequests() {
    for case .computing(let ticket, let bytes) in inFlight.values {
      server.cancel(ticket, bytes: bytes)
    }
    inFlight = [:]
    admittedBytes = 0
  }

  func streamClosed(_ stream: ByteStream, error: EventLoopError?) {
    if !isEnding, let error { server.closedAbnormally(.broken, connection: id, "\(error)") }
    isEnding = true
    dropRequests()
    server.receiveBytes -= countedReceiveBytes
    server.writeBytes -= countedWriteBytes
    server.didClose(self)
  }

  /// Called now and then: ends what makes too little progress or is not used, and gives back memory.
  func sweep(_ now: ContinuousClock.Instant) {
    countBytes()
    let queued = stream.queuedBytes
    if reading.isStalled(isPending: queued > 0, bytes: bytesAnswered - queued, now: now) {
      server.closedAbnormally(
        .slowReader, connection: id,
        "responses are read at less than \(server.limits.bytesPerSecondMin) bytes a second over \(server.limits.stall)"
      )
      isEnding = true
      return stream.close()
    }
    // What the server does not read is not the peer's fault.
    let isReading = !isEnding && !isPaused && !isYielding
    if sending.isStalled(
      isPending: isReading && decoder.bufferedBytes > 0, bytes: bytesReceived, now: now)
    {
      return refuse(
        .slowSender,
        ServerError(
          .deadlineExceeded,
          "an unfinished frame arrives at less than \(server.limits.bytesPerSecondMin) bytes a second over \(server.limits.stall); connect again"
        ))
    }
    guard isReading, decoder.bufferedBytes == 0 else { return }
    decoder.releaseUnused()
    countBytes()
    if inFlight.isEmpty, queued == 0, lastActive.duration(to: now) > server.limits.idle {
      refuse(
        .idle,
        ServerError(
          .unavailable,
          "the connection was without requests for \(server.limits.idle); connect again"))
    }
  }

  private func countBytes() {
    server.receiveBytes += decoder.countedBytes - countedReceiveBytes
    countedReceiveBytes = decoder.countedBytes
    server.writeBytes += stream.queuedBytes - countedWriteBytes
    countedWriteBytes = stream.queuedBytes
  }
}
