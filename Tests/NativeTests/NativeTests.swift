import GranuleNative
import GranuleTensors
import GranuleWire
import Synchronization
import Testing

/// The frames that a sink has sent, as a client reads them.
private final class Frames: Sendable {
  private let frames = Mutex<[(response: Response, isLast: Bool)]>([])

  func sink(_ call: Call, frameBytesMax: Int = 1 << 20) -> NativeSink {
    NativeSink(requestID: 7, call: call, frameBytesMax: frameBytesMax) { frame, isLast in
      let response = frame.payload.withBytes {
        try? Response(unpacking: $0, memoryBytesMax: 1 << 20)
      }
      if let response { self.frames.withLock { $0.append((response, isLast)) } }
    }
  }

  func take() -> [(response: Response, isLast: Bool)] {
    frames.withLock { frames in
      defer { frames = [] }
      return frames
    }
  }
}

private func call(delta: Bool) -> Call {
  .encode(
    EncodeRequest(
      model: "m",
      activations: PackedTensor(
        type: .float32, shape: [2, 1], data: SharedBytes(copying: [Float(1), 2])),
      delta: delta))
}

private func stage(_ pieces: [SparseCodes]?, _ stopReason: StopReason? = nil) -> Reply {
  .encoded(
    EncodedStage(
      model: "m", version: 3, granularity: 8, k: 2, pieces: pieces, reconstruction: nil, fvu: 0.5,
      squaredErrors: SharedBytes(copying: [Float(1), 2]), stopReason: stopReason,
      queueNanoseconds: 1, computeNanoseconds: 2))
}

private func encoded(_ response: Response) throws -> EncodeResponse {
  guard case .encode(let encoded) = try response.result.get() else {
    throw ServerError(.internal, "another kind of response")
  }
  return encoded
}

@Suite struct NativeSinkTests {
  @Test("the pieces of a stage arrive as one, in the order of the tokens")
  func pieces() throws {
    let frames = Frames()
    let sink = frames.sink(call(delta: false))
    let pieces = [
      try SparseCodes(rowOffsets: [0, 2], indices: [1, 5], values: [1, 2]),
      try SparseCodes(rowOffsets: [0, 1], indices: [3], values: [4]),
    ]
    try sink.pack(stage(pieces, .complete), isLast: true).send()
    let frame = try #require(frames.take().first)
    #expect(frame.isLast && frame.response.last && frame.response.id == 7)
    let response = try encoded(frame.response)
    #expect(response.codes?.rowOffsets.array(of: UInt32.self) == [0, 2, 3])
    #expect(response.codes?.indices.array(of: UInt32.self) == [1, 5, 3])
    #expect(response.codes?.values.array(of: Float.self) == [1, 2, 4])
    #expect(response.removed == nil)
    #expect(response.stopReason == .complete)
  }

  @Test("with delta a later stage carries what changed, and a client has the whole codes again")
  func delta() throws {
    let frames = Frames()
    let sink = frames.sink(call(delta: true))
    let first = try SparseCodes(rowOffsets: [0, 2, 3], indices: [1, 5, 3], values: [1, 2, 4])
    let second = try SparseCodes(rowOffsets: [0, 2, 3], indices: [1, 7, 3], values: [1, 2, 9])
    try sink.pack(stage([first]), isLast: false).send()
    try sink.pack(stage([second], .complete), isLast: true).send()
    let sent = frames.take()
    #expect(sent.map(\.isLast) == [false, true])
    let whole = try encoded(sent[0].response)
    var change = try encoded(sent[1].response)
    #expect(change.codes?.indices.array(of: UInt32.self) == [7, 3])
    #expect(change.removed?.indices.array(of: UInt32.self) == [5])
    try change.completeCodes(with: try #require(whole.codes))
    #expect(change.codes?.indices.array(of: UInt32.self) == [1, 7, 3])
    #expect(change.codes?.values.array(of: Float.self) == [1, 2, 9])
  }

  @Test("no reply is longer than the sink says beforehand; one beyond the limit is refused")
  func bounds() throws {
    for delta in [false, true] {
      let frames = Frames()
      let sink = frames.sink(call(delta: delta))
      let size = ReplySize(
        tokens: 2, activeLatents: 2, hasErrors: true, reconstructionWidth: nil)
      let bound = sink.bytesMax(of: size)
      let codes = try SparseCodes(
        rowOffsets: [0, 2, 4], indices: [1, 5, 3, 4], values: [1, 2, 3, 4])
      let other = try SparseCodes(
        rowOffsets: [0, 2, 4], indices: [2, 6, 7, 8], values: [1, 2, 3, 4])
      for codes in [codes, other] { try sink.pack(stage([codes]), isLast: false).send() }
      for frame in frames.take() {
        #expect(frame.response.packed().count - FrameDecoder.headerBytes <= bound)
      }
    }
    let small = Frames().sink(call(delta: false), frameBytesMax: 8)
    let error = #expect(throws: ServerError.self) { try small.pack(stage(nil), isLast: true) }
    #expect(error?.code == .resourceExhausted)
    #expect(error?.message.contains("the limit is 8") == true)
  }

  @Test("an error ends the request, with its code and when to try again")
  func errors() throws {
    let frames = Frames()
    let error = ServerError(.unavailable, "no room", retryAfterMilliseconds: 5)
    frames.sink(.status).pack(error).send()
    let frame = try #require(frames.take().first)
    #expect(frame.isLast && frame.response.last)
    #expect(throws: error) { try frame.response.result.get() }
  }
}

@Suite struct NativeReaderTests {
  private func feed(_ bytes: [UInt8], _ reader: inout NativeReader) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let space = reader.decoder.space()
      let count = min(space.count, rest.count)
      space.copyBytes(from: rest.prefix(count))
      reader.decoder.received(count)
      rest = rest.dropFirst(count)
    }
  }

  @Test("requests come out as they went in, however the bytes arrive")
  func requests() throws {
    var reader = NativeReader(frameBytesMax: 1 << 16, requestMemoryBytesMax: 1 << 20)
    let bytes = (1...3 as ClosedRange<UInt64>).flatMap { id in
      let frame = Request(id: id, call: .status).packed()
      return withExtendedLifetime(frame) { Array(frame.bytes) }
    }
    var ids: [UInt64] = []
    for byte in bytes {
      feed([byte], &reader)
      while let request = try reader.next(isInFlight: { _ in false }) { ids.append(request.id) }
    }
    #expect(ids == [1, 2, 3])
  }

  @Test("ids that are 0 or in flight, frames that are too long or not protobuf, end the connection")
  func lostTrack() throws {
    func error(_ bytes: [UInt8]) -> ServerError? {
      var reader = NativeReader(frameBytesMax: 1024, requestMemoryBytesMax: 1 << 20)
      feed(bytes, &reader)
      do throws(ServerError) {
        _ = try reader.next(isInFlight: { $0 == 5 })
        return nil
      } catch {
        return error
      }
    }
    func frame(_ id: UInt64) -> [UInt8] {
      let frame = Request(id: id, call: .status).packed()
      return withExtendedLifetime(frame) { Array(frame.bytes) }
    }
    #expect(error(frame(4)) == nil)
    #expect(error(frame(0))?.message.hasPrefix("id: is 0") == true)
    #expect(error(frame(5))?.message.hasPrefix("id: 5 is in flight already") == true)
    #expect(error([0, 0, 4, 1])?.code == .resourceExhausted)
    #expect(error([0, 0, 0, 2, 0xff, 0xff])?.code == .invalidArgument)
  }
}
