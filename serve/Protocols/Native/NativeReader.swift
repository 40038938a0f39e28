package import GranuleWire

/// Cuts what a connection receives into requests; does no I/O.
///
/// Bytes go into `decoder`, requests come out of `next`, until it gives nil.
package struct NativeReader: ~Copyable {
  /// Where received bytes go, and what says how much memory they take.
  package var decoder: FrameDecoder
  private let requestMemoryBytesMax: Int

  /// A reader at the start of a connection.
  ///
  /// - Parameters:
  ///   - frameBytesMax: the longest frame accepted.
  ///   - requestMemoryBytesMax: memory that one unpacked request may take.
  package init(frameBytesMax: Int, requestMemoryBytesMax: Int) {
    decoder = FrameDecoder(frameBytesMax: frameBytesMax)
    self.requestMemoryBytesMax = requestMemoryBytesMax
  }

  /// The next request; nil if bytes are missing.
  ///
  /// - Parameter isInFlight: whether a request with that id is in flight on the connection.
  /// - Throws: why the client has lost track of the protocol. Nothing more can be read then.
  package mutating func next(isInFlight: (UInt64) -> Bool) throws(ServerError) -> ReceivedRequest? {
    let payload: UnsafeRawBufferPointer?
    do throws(FrameError) { payload = try decoder.nextFrame() } catch {
      throw ServerError(.resourceExhausted, "\(error)")
    }
    guard let payload else { return nil }
    let request: ReceivedRequest
    do throws(UnpackingError) {
      request = try ReceivedRequest(
        unpacking: payload, memoryBytesMax: requestMemoryBytesMax)
    } catch {
      throw ServerError(error == .malformed ? .invalidArgument : .resourceExhausted, "\(error)")
    }
    guard request.id != 0 else {
      throw ServerError(.invalidArgument, "id: is 0; each request needs an id of its own")
    }
    guard !isInFlight(request.id) else {
      throw ServerError(
        .invalidArgument, "id: \(request.id) is in flight already; use another")
    }
    return request
  }
}
