import GranuleTransport
import GranuleWire

/// Who waits for the responses to a request.
struct WaitingRequest: Sendable {
  /// Takes a response.
  let receive: @Sendable (Response.Body) -> Void
  /// Ends the wait, with an error if there is one.
  let finish: @Sendable ((any Error)?) -> Void
}

/// A client's connection, confined to its loop's thread.
final class ClientConnection: ByteStreamHandler {
  private struct InFlight {
    let waiting: WaitingRequest
    let timer: LoopTimer?
  }

  private let loop: EventLoop
  private let stream: ByteStream
  private let address: SocketAddress
  private let options: ClientOptions
  private var decoder: FrameDecoder
  private var inFlight: [UInt64: InFlight] = [:]
  /// Why nothing can be sent any more; nil while it can.
  private var failure: (any Error)?

  private init(
    loop: EventLoop, stream: ByteStream, address: SocketAddress, options: ClientOptions
  ) {
    self.loop = loop
    self.stream = stream
    self.address = address
    self.options = options
    decoder = FrameDecoder(frameBytesMax: options.frameBytesMax)
  }

  /// Connects, and calls `completed` once.
  static func open(
    loop: EventLoop, address: SocketAddress, options: ClientOptions,
    completed: @escaping (Result<LoopBound<ClientConnection>, any Error>) -> Void
  ) {
    var completed = Optional(completed)
    func complete(_ result: Result<LoopBound<ClientConnection>, any Error>) {
      completed?(result)
      completed = nil
    }
    func fail(_ reason: String) {
      complete(.failure(ClientError.connectFailed(address: address, reason: reason)))
    }
    let timer = LoopTimer(loop: loop)
    timer.start(after: options.connectTimeout) {
      timer.close()
      fail("no answer within \(options.connectTimeout)")
    }
    do throws(EventLoopError) {
      ByteStream.connect(loop: loop, to: try address.resolve()) { result in
        guard timer.isOpen else { return (try? result.get())?.close() ?? () }
        timer.close()
        switch result {
        case .success(let stream):
          let connection = ClientConnection(
            loop: loop, stream: stream, address: address, options: options)
          stream.setHandler(connection)
          stream.resumeReading()
          complete(.success(LoopBound(connection, to: loop)))
        case .failure(let error): fail(error.reason)
        }
      }
    } catch {
      timer.close()
      fail(error.reason)
    }
  }

  func send(_ frame: PackedFrame, id: UInt64, timeout: Duration?, _ waiting: WaitingRequest) {
    if let failure { return waiting.finish(failure) }
    guard frame.count - FrameDecoder.headerBytes <= options.frameBytesMax else {
      return waiting.finish(
        FrameError.tooLong(
          length: frame.count - FrameDecoder.headerBytes, limit: options.frameBytesMax))
    }
    var timer: LoopTimer?
    if let timeout {
      let fresh = LoopTimer(loop: loop)
      fresh.start(after: timeout) { [unowned self] in
        self.end(id, ClientError.timedOut(address: self.address, limit: timeout))
      }
      timer = fresh
    }
    inFlight[id] = InFlight(waiting: waiting, timer: timer)
    stream.write(frame.bytes, owner: frame)
  }

  /// Cancels request `id` at the server, without waiting for the answer.
  func cancel(_ id: UInt64, with cancelID: UInt64) {
    guard let request = inFlight.removeValue(forKey: id) else { return }
    request.timer?.close()
    request.waiting.finish(CancellationError())
    let frame = Request(id: cancelID, body: .cancel(requestID: id)).packed()
    stream.write(frame.bytes, owner: frame)
  }

  func close() {
    fail(ClientError.closed(address: address))
  }

  private func end(_ id: UInt64, _ error: (any Error)?) {
    guard let request = inFlight.removeValue(forKey: id) else { return }
    request.timer?.close()
    request.waiting.finish(error)
  }

  private func fail(_ error: any Error) {
    if failure == nil { failure = error }
    for id in inFlight.keys.sorted() { end(id, failure) }
    stream.close()
  }

  // MARK: ByteStreamHandler

  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer { decoder.space() }

  func stream(_ stream: ByteStream, received count: Int) {
    decoder.received(count)
    do {
      while failure == nil, let payload = try decoder.nextFrame() {
        receive(
          try Response(unpacking: payload, memoryBytesMax: options.responseMemoryBytesMax))
      }
    } catch {
      fail(ClientError.protocolViolation(address: address, reason: "\(error)"))
    }
  }

  private func receive(_ response: Response) {
    if response.id == 0 {
      // The server cannot go on with this connection, and says why.
      switch response.result {
      case .failure(let error): return fail(error)
      case .success:
        return fail(
          ClientError.protocolViolation(address: address, reason: "a response without an id"))
      }
    }
    // A request that was cancelled, or waited too long, may still be answered.
    guard let request = inFlight[response.id] else { return }
    switch response.result {
    case .success(let body):
      request.waiting.receive(body)
      if response.last { end(response.id, nil) }
    case .failure(let error): end(response.id, error)
    }
  }

  func streamEnded(_ stream: ByteStream) {
    fail(ClientError.connectionLost(address: address, reason: "the server closed it"))
  }

  func streamWrote(_ stream: ByteStream) {}

  func streamClosed(_ stream: ByteStream, error: EventLoopError?) {
    fail(ClientError.connectionLost(address: address, reason: error?.reason ?? "it was closed"))
  }
}
