import CLibUV
import Glibc

/// What a stream tells its user, always on the loop's thread.
public protocol ByteStreamHandler: AnyObject {
  /// Memory for the next bytes; empty if the system refuses it.
  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer
  /// There was no space; a stream that the handler does not finish now is closed.
  func streamLacksSpace(_ stream: ByteStream)
  /// `count` bytes lie at the start of the space given last.
  func stream(_ stream: ByteStream, received count: Int)
  /// The peer will send no more; it may still read.
  func streamEnded(_ stream: ByteStream)
  /// Some of the bytes that waited have been written.
  func streamWrote(_ stream: ByteStream)
  /// The last call: the stream is closed, because of `error` if there is one.
  func streamClosed(_ stream: ByteStream, error: EventLoopError?)
}

extension ByteStreamHandler {
  /// Lets the stream be closed.
  public func streamLacksSpace(_ stream: ByteStream) {}
}

/// A connected TCP or Unix socket.
///
/// Writes go out in order and never block; `queuedBytes` tells how many wait, so that the user can
/// stop asking for more.
public final class ByteStream: LoopHandle {
  private enum State {
    case open
    /// Everything is being written and then ended; what the peer still sends is discarded, so that
    /// closing does not reset the connection and lose the last bytes.
    case finishing(discardBytesLeft: Int)
    case closed
  }
  private var state = State.open
  private var handler: (any ByteStreamHandler)?
  private var isReading = false
  private var peerEnded = false
  private var writeEnded = false
  private var error: EventLoopError?
  private var deadline: LoopTimer?
  /// Bytes given to `write` and not yet taken by the system.
  public var queuedBytes: Int { isOpen ? rawStream.pointee.write_queue_size : 0 }

  private final class PendingWrite {
    let request = UnsafeMutablePointer<uv_write_t>.allocate(capacity: 1)
    let stream: ByteStream
    let owner: AnyObject
    init(stream: ByteStream, owner: AnyObject) {
      self.stream = stream
      self.owner = owner
    }
    deinit { request.deallocate() }
  }

  private final class PendingConnect {
    let request = UnsafeMutablePointer<uv_connect_t>.allocate(capacity: 1)
    let stream: ByteStream
    let completed: (Int32) -> Void
    init(stream: ByteStream, completed: @escaping (Int32) -> Void) {
      self.stream = stream
      self.completed = completed
    }
    deinit { request.deallocate() }
  }

  private final class PendingShutdown {
    let request = UnsafeMutablePointer<uv_shutdown_t>.allocate(capacity: 1)
    let stream: ByteStream
    let limit: Duration
    init(stream: ByteStream, limit: Duration) {
      self.stream = stream
      self.limit = limit
    }
    deinit { request.deallocate() }
  }

  /// A stream that is not connected yet.
  init(loop: EventLoop, isUnix: Bool) throws(EventLoopError) {
    super.init(
      loop: loop, byteCount: max(MemoryLayout<uv_tcp_t>.size, MemoryLayout<uv_pipe_t>.size))
    try check(
      isUnix
        ? uv_pipe_init(loop.raw, cast(to: uv_pipe_t.self), 0)
        : uv_tcp_init(loop.raw, cast(to: uv_tcp_t.self)), "make a socket")
    didInitialize()
  }

  private var rawStream: UnsafeMutablePointer<uv_stream_t> { cast(to: uv_stream_t.self) }

  // MARK: Connecting

  /// Connects to the first of `addresses` that answers, and calls `completed` with the stream or
  /// the last error.
  public static func connect(
    loop: EventLoop, to addresses: [ResolvedAddress],
    completed: @escaping (Result<ByteStream, EventLoopError>) -> Void
  ) {
    guard let address = addresses.first else {
      return completed(.failure(EventLoopError(operation: "connect", reason: "no address")))
    }
    let operation = "connect to \(address.origin)"
    do throws(EventLoopError) {
      let isUnix = if case .unix = address.origin { true } else { false }
      let stream = try ByteStream(loop: loop, isUnix: isUnix)
      stream.connect(to: address) { code in
        if code == 0 {
          stream.tune()
          return completed(.success(stream))
        }
        stream.close()
        let rest = Array(addresses.dropFirst())
        // ECANCELED: the loop is being shut down.
        guard rest.isEmpty || code == UV_ECANCELED.rawValue else {
          return connect(loop: loop, to: rest, completed: completed)
        }
        completed(.failure(EventLoopError(operation: operation, code: code)))
      }
    } catch {
      completed(.failure(error))
    }
  }

  private func connect(to address: ResolvedAddress, completed: @escaping (Int32) -> Void) {
    let pending = PendingConnect(stream: self, completed: completed)
    pending.request.pointee.data = Unmanaged.passRetained(pending).toOpaque()
    let callback: uv_connect_cb = { request, code in
      guard let data = request?.pointee.data else { return }
      let pending = Unmanaged<PendingConnect>.fromOpaque(data).takeRetainedValue()
      pending.completed(code)
    }
    switch address.origin {
    case .unix(let path):
      // Reports its errors through the callback.
      uv_pipe_connect(pending.request, cast(to: uv_pipe_t.self), path, callback)
    case .tcp:
      let code = address.withPointer {
        uv_tcp_connect(pending.request, cast(to: uv_tcp_t.self), $0, callback)
      }
      if code < 0 {
        Unmanaged.passUnretained(pending).release()
        completed(code)
      }
    }
  }

  /// Takes the connection that waits at `listener`.
  func accept(from listener: UnsafeMutablePointer<uv_stream_t>) throws(EventLoopError) {
    try check(uv_accept(listener, rawStream), "accept a connection")
    tune()
  }

  private func tune() {
    guard raw.pointee.type == UV_TCP else { return }
    // Answers are written whole: waiting to fill a packet only delays them.
    uv_tcp_nodelay(cast(to: uv_tcp_t.self), 1)
    // A peer that lost its power is noticed after a minute or so.
    uv_tcp_keepalive(cast(to: uv_tcp_t.self), 1, 60)
  }

  // MARK: Reading

  /// Who is told about this stream, until it is closed; a stream without a handler cannot read.
  public func setHandler(_ handler: any ByteStreamHandler) {
    guard isOpen else { return }
    self.handler = handler
  }

  /// Starts reading, or goes on; does nothing once the peer has ended or the stream is finishing.
  public func resumeReading() {
    guard isOpen, case .open = state, !peerEnded, handler != nil else { return }
    startReading()
  }

  /// Stops reading; the peer's bytes wait in the system, and then at the peer.
  public func pauseReading() {
    guard isOpen, isReading, case .open = state else { return }
    uv_read_stop(rawStream)
    isReading = false
  }

  private func startReading() {
    guard !isReading else { return }
    let code = uv_read_start(
      rawStream,
      { handle, _, buffer in
        guard let buffer, let stream = owner(of: handle, as: ByteStream.self) else { return }
        let space = stream.space()
        buffer.pointee = uv_buf_init(
          space.baseAddress?.assumingMemoryBound(to: CChar.self),
          UInt32(clamping: min(space.count, 1 << 30)))
      },
      { handle, count, _ in owner(of: handle, as: ByteStream.self)?.didRead(count) })
    isReading = code == 0
    if code < 0 { fail(EventLoopError(operation: "read", code: code)) }
  }

  private func space() -> UnsafeMutableRawBufferPointer {
    if case .open = state, let handler { return handler.space(for: self) }
    return loop.discarded
  }

  private func didRead(_ count: Int) {
    guard isOpen, count != 0 else { return }
    if count == Int(UV_ENOBUFS.rawValue) {
      handler?.streamLacksSpace(self)
      // What ends in good order goes on reading what it discards.
      if case .finishing = state { return }
    }
    if count < 0 {
      isReading = false
      uv_read_stop(rawStream)
      guard count == Int(UV_EOF.rawValue) else {
        return fail(EventLoopError(operation: "read", code: Int32(count)))
      }
      peerEnded = true
    }
    switch state {
    case .open:
      if peerEnded { handler?.streamEnded(self) } else { handler?.stream(self, received: count) }
    case .finishing(let left):
      if peerEnded {
        if writeEnded { close() }
      } else if count > left {
        close()
      } else {
        state = .finishing(discardBytesLeft: left - count)
      }
    case .closed: break
    }
  }

  // MARK: Writing

  /// Writes `bytes` after everything written before; `owner` keeps them alive, and nobody changes
  /// them meanwhile.
  public func write(_ bytes: UnsafeRawBufferPointer, owner: AnyObject) {
    guard isOpen, case .open = state, let base = bytes.baseAddress, bytes.count > 0 else { return }
    var done = 0
    // libuv takes lengths of 32 bits.
    while queuedBytes == 0, done < bytes.count {
      let count = min(bytes.count - done, 1 << 30)
      var buffer = Self.buffer(base + done, count)
      let written = Int(uv_try_write(rawStream, &buffer, 1))
      guard written >= 0 else {
        if written == Int(UV_EAGAIN.rawValue) { break }
        return fail(EventLoopError(operation: "write", code: Int32(written)))
      }
      done += written
      if written < count { break }
    }
    while done < bytes.count, isOpen {
      let count = min(bytes.count - done, 1 << 30)
      queue(base + done, count, owner: owner)
      done += count
    }
  }

  private static func buffer(_ start: UnsafeRawPointer, _ count: Int) -> uv_buf_t {
    uv_buf_init(
      UnsafeMutablePointer(mutating: start.assumingMemoryBound(to: CChar.self)), UInt32(count))
  }

  private func queue(_ start: UnsafeRawPointer, _ count: Int, owner: AnyObject) {
    let pending = PendingWrite(stream: self, owner: owner)
    pending.request.pointee.data = Unmanaged.passRetained(pending).toOpaque()
    var buffer = Self.buffer(start, count)
    let code = uv_write(pending.request, rawStream, &buffer, 1) { request, code in
      guard let data = request?.pointee.data else { return }
      let pending = Unmanaged<PendingWrite>.fromOpaque(data).takeRetainedValue()
      pending.stream.didWrite(code)
    }
    if code < 0 {
      Unmanaged.passUnretained(pending).release()
      fail(EventLoopError(operation: "write", code: code))
    }
  }

  private func didWrite(_ code: Int32) {
    guard isOpen else { return }
    if code < 0 { return fail(EventLoopError(operation: "write", code: code)) }
    if case .open = state { handler?.streamWrote(self) }
  }

  // MARK: Ending

  /// Writes what waits, however long that takes, tells the peer that no more will come, and closes
  /// once the peer has ended too, has sent `discardBytesMax` more, or `limit` has passed since the
  /// last byte was written.
  public func finish(discardBytesMax: Int, within limit: Duration) {
    guard isOpen, case .open = state else { return }
    state = .finishing(discardBytesLeft: discardBytesMax)
    let pending = PendingShutdown(stream: self, limit: limit)
    pending.request.pointee.data = Unmanaged.passRetained(pending).toOpaque()
    let code = uv_shutdown(pending.request, rawStream) { request, code in
      guard let data = request?.pointee.data else { return }
      let pending = Unmanaged<PendingShutdown>.fromOpaque(data).takeRetainedValue()
      pending.stream.didEndWriting(code, closeAfter: pending.limit)
    }
    if code < 0 {
      Unmanaged.passUnretained(pending).release()
      return close()
    }
    if !peerEnded { startReading() }
  }

  private func didEndWriting(_ code: Int32, closeAfter limit: Duration) {
    guard isOpen else { return }
    writeEnded = true
    guard code == 0, !peerEnded else { return close() }
    let timer = LoopTimer(loop: loop)
    timer.start(after: limit) { [unowned self] in self.close() }
    deadline = timer
  }

  private func fail(_ error: EventLoopError) {
    if self.error == nil { self.error = error }
    close()
  }

  /// Ends the stream at once; what waits to be written is lost.
  public override func close() {
    guard isOpen else { return }
    state = .closed
    isReading = false
    deadline?.close()
    deadline = nil
    super.close()
  }

  override func didClose() {
    let handler = self.handler
    self.handler = nil
    handler?.streamClosed(self, error: error)
  }
}
