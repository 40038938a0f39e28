/// One frame as it goes over the wire: the 4-byte length and the message behind it.
public final class PackedFrame: @unchecked Sendable {
  // Safe to share: written once by the initialiser, read only afterwards.
  private let storage: UnsafeMutableRawBufferPointer

  /// The frame's bytes, its length included; they live as long as the frame.
  public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(storage) }

  /// How many bytes, the length included.
  public var count: Int { storage.count }

  /// The message without its length.
  public var payload: SharedBytes {
    SharedBytes(UnsafeRawBufferPointer(rebasing: bytes[FrameDecoder.headerBytes...]), owner: self)
  }

  /// A frame of `payloadBytes`, which `fill` writes.
  init(payloadBytes: Int, fill: (UnsafeMutablePointer<UInt8>) -> Int) {
    precondition(payloadBytes <= UInt32.max, "a frame's length has 32 bits")
    storage = .allocate(byteCount: FrameDecoder.headerBytes + payloadBytes, alignment: 64)
    storage.storeBytes(of: UInt32(payloadBytes).bigEndian, as: UInt32.self)
    guard payloadBytes > 0, let base = storage.baseAddress else { return }
    let written = fill((base + FrameDecoder.headerBytes).assumingMemoryBound(to: UInt8.self))
    precondition(written == payloadBytes, "the message changed while it was packed")
  }

  deinit { storage.deallocate() }
}
