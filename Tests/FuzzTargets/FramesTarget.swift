internal import GranuleWire

extension FuzzTarget {
  /// The frame decoder, which reads pieces of any length from a stream; the first byte says how long
  /// they are, the second how long a frame may be. Frames are those that a plain loop cuts.
  static let frames = FuzzTarget(
    name: "frames",
    seeds: {
      let frames = [[], [1], [UInt8](repeating: 7, count: 300)].flatMap { framed($0) }
      // The last frame is longer than the second input allows.
      return [
        Seed([3, 12] + frames), Seed([255, 7] + frames, .refused),
        Seed([0, 16, 0xFF, 0xFF, 0xFF, 0xFF, 1], .refused),
      ]
    },
    run: { bytes in
      guard bytes.count >= 2 else { return .refused }
      let stream = Array(bytes.dropFirst(2))
      let pieceBytes = Int(bytes[0]) + 1
      let frameBytesMax = 1 << Int(bytes[1] % 17)
      let expected = plainFrames(stream, frameBytesMax: frameBytesMax)
      var decoder = FrameDecoder(frameBytesMax: frameBytesMax)
      var frames: [[UInt8]] = []
      var tooLong = false
      var sent = 0
      while sent < stream.count, !tooLong {
        let space = decoder.space()
        let count = min(pieceBytes, space.count, stream.count - sent)
        try require(count > 0, "space() is never empty")
        space.copyBytes(from: stream[sent..<sent + count])
        decoder.received(count)
        sent += count
        do throws(FrameError) {
          while let frame = try decoder.nextFrame() { frames.append(Array(frame)) }
        } catch {
          tooLong = true
        }
        try require(
          decoder.capacityBytes <= 2 * sent + 256 << 10, "memory follows what has arrived")
        if sent % 3 == 0 { decoder.releaseUnused() }
      }
      try require(tooLong == expected.tooLong, "a frame beyond the limit is refused")
      try require(frames == expected.frames, "frames are those of a plain loop")
      return tooLong ? .refused : .accepted
    })
}

private func framed(_ payload: [UInt8]) -> [UInt8] {
  withUnsafeBytes(of: UInt32(payload.count).bigEndian) { Array($0) } + payload
}

private func plainFrames(
  _ stream: [UInt8], frameBytesMax: Int
) -> (frames: [[UInt8]], tooLong: Bool) {
  var frames: [[UInt8]] = []
  var rest = stream[...]
  while rest.count >= 4 {
    let length = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
    guard length <= frameBytesMax else { return (frames, true) }
    guard rest.count >= 4 + length else { break }
    frames.append(Array(rest.dropFirst(4).prefix(length)))
    rest = rest.dropFirst(4 + length)
  }
  return (frames, false)
}
