import GranuleWire
import Testing

@Suite struct FrameDecoderTests {
  /// A length and as many bytes, each of the given value.
  static func frame(_ count: Int, of byte: UInt8) -> [UInt8] {
    let length = UInt32(count)
    return (0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * $0)) }
      + [UInt8](repeating: byte, count: count)
  }

  /// Hands on as much of `rest` as the decoder has room for.
  static func feed(_ rest: inout ArraySlice<UInt8>, to decoder: inout FrameDecoder) {
    let space = decoder.space()
    let taken = rest.prefix(space.count)
    space.copyBytes(from: taken)
    decoder.received(taken.count)
    rest = rest.dropFirst(taken.count)
  }

  /// Feeds `bytes` in pieces of the given sizes and returns every frame.
  static func decode(_ pieces: [ArraySlice<UInt8>], frameBytesMax: Int = 1 << 20) throws
    -> [[UInt8]]
  {
    var decoder = FrameDecoder(frameBytesMax: frameBytesMax)
    var frames: [[UInt8]] = []
    for piece in pieces {
      var rest = piece
      while !rest.isEmpty {
        Self.feed(&rest, to: &decoder)
        while let frame = try decoder.nextFrame() { frames.append([UInt8](frame)) }
      }
    }
    return frames
  }

  @Test("frames come out whole wherever the stream is cut in three")
  func everySplit() throws {
    let sizes = [0, 1, 5, 0, 13]
    let bytes = sizes.enumerated().flatMap { Self.frame($1, of: UInt8($0)) }
    let wanted = sizes.enumerated().map { [UInt8](repeating: UInt8($0), count: $1) }
    for first in 0...bytes.count {
      for second in first...bytes.count {
        let frames = try Self.decode([bytes[..<first], bytes[first..<second], bytes[second...]])
        #expect(frames == wanted, "cut at \(first) and \(second)")
      }
    }
  }

  @Test("frames longer than any buffer kept come out whole")
  func longFrames() throws {
    let sizes = [900_000, 3, 700_000]
    let bytes = sizes.enumerated().flatMap { Self.frame($1, of: UInt8($0)) }
    let frames = try Self.decode([bytes[...]])
    #expect(frames.map(\.count) == sizes)
    for (index, frame) in frames.enumerated() {
      #expect(frame.allSatisfy { $0 == UInt8(index) })
    }
  }

  @Test("a frame beyond the limit is refused from its length alone")
  func tooLong() throws {
    #expect(throws: FrameError.tooLong(length: 101, limit: 100)) {
      try Self.decode([Self.frame(101, of: 0)[..<4]], frameBytesMax: 100)
    }
    #expect(throws: FrameError.tooLong(length: Int(UInt32.max), limit: 100)) {
      try Self.decode([[0xff, 0xff, 0xff, 0xff]], frameBytesMax: 100)
    }
    #expect(try Self.decode([Self.frame(100, of: 7)[...]], frameBytesMax: 100).count == 1)
  }

  @Test("an announced length takes no memory before its bytes arrive")
  func announcedLength() throws {
    var decoder = FrameDecoder()
    let header = Self.frame(60 << 20, of: 0).prefix(4)
    decoder.space().copyBytes(from: header)
    decoder.received(4)
    #expect(try decoder.nextFrame() == nil)
    _ = decoder.space()
    #expect(decoder.capacityBytes <= 256 << 10)
  }

  @Test("a place that was only announced does not count, one that was written to does")
  func countedBytes() throws {
    var decoder = FrameDecoder()
    var rest = Self.frame(900_000, of: 1)[...]
    // The place is found with the reading after the one that brings the length.
    for count in [5, 1] {
      decoder.space().copyBytes(from: rest.prefix(count))
      decoder.received(count)
      rest = rest.dropFirst(count)
      #expect(try decoder.nextFrame() == nil)
    }
    #expect(decoder.capacityBytes > 900_000)
    #expect(decoder.countedBytes < 32 << 10)
    while !rest.isEmpty { Self.feed(&rest, to: &decoder) }
    #expect(decoder.countedBytes > 900_000)
    #expect(try decoder.nextFrame()?.count == 900_000)
    // It is still held.
    #expect(decoder.countedBytes > 900_000)
    decoder.releaseUnused()
    #expect(decoder.countedBytes == 0)
  }

  @Test("memory is given back after a long frame")
  func releases() throws {
    var decoder = FrameDecoder()
    var rest = Self.frame(8 << 20, of: 1)[...]
    while !rest.isEmpty { Self.feed(&rest, to: &decoder) }
    #expect(try decoder.nextFrame()?.count == 8 << 20)
    _ = decoder.space()
    #expect(decoder.capacityBytes <= 256 << 10)
    decoder.releaseUnused()
    #expect(decoder.capacityBytes == 0)
  }

  @Test("what a web browser says first reads as a frame that is too long")
  func otherProtocols() {
    for greeting in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\n"] {
      #expect(throws: FrameError.self) { try Self.decode([Array(greeting.utf8)[...]]) }
    }
  }
}
