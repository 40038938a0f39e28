import GranuleCalls
import GranuleTransport
import GranuleWire

/// A connection that gets one error and is ended in good order.
final class RefusedConnection: ByteStreamHandler {
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
