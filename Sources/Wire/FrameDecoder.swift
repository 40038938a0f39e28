import Glibc

/// Why a peer's bytes cannot be read as frames.
public enum FrameError: Error, Equatable, CustomStringConvertible {
  /// The length before a frame is beyond the limit; both in bytes.
  case tooLong(length: Int, limit: Int)

  /// What was wrong, and the limit.
  public var description: String {
    switch self {
    case .tooLong(let length, let limit):
      "frame of \(length) bytes: the limit is \(limit) bytes; send fewer tokens in a request"
        + (Self.isText(length) ? " (its length reads as text: is the peer speaking HTTP?)" : "")
    }
  }
}

extension FrameError {
  /// Whether the four bytes of a length are printable, as another protocol's first bytes are.
  private static func isText(_ length: Int) -> Bool {
    withUnsafeBytes(of: UInt32(truncatingIfNeeded: length)) {
      $0.allSatisfy { (0x20..<0x7F).contains($0) }
    }
  }
}

/// Cuts a stream of bytes into frames: a length of 4 bytes, big-endian, then that many bytes.
///
/// It does no I/O. How to use it:
/// 1. write received bytes into `space()` and tell `received(_:)` how many;
/// 2. call `nextFrame()` until it gives nil;
/// 3. repeat. A frame's bytes are valid until the next call of any mutating method.
///
/// A frame of up to 1 MiB finds its place as soon as its length is known, and is not moved again.
/// Beyond that memory follows what has arrived, not what a length announces: at most twice the bytes
/// received, and never more than one frame of the largest size beside one reading of the smallest.
public struct FrameDecoder: ~Copyable {
  /// The longest frame accepted, in bytes, unless the maker says otherwise: 64 MiB.
  ///
  /// That is well below what the first four bytes of HTTP/1 and HTTP/2 read as.
  public static let frameBytesMaxDefault = 64 << 20
  /// The bytes before each frame that hold its length.
  public static let headerBytes = 4
  /// The capacity that is kept for the next frame; a larger one is given back when it is empty.
  private static let retainedBytes = 256 << 10
  /// The longest frame whose memory is reserved at once, in bytes.
  private static let wholeBytesMax = 1 << 20
  /// The least free space worth reading into.
  private static let readBytesMin = 16 << 10

  private let frameBytesMax: Int
  private var storage: UnsafeMutableRawBufferPointer
  private var start = 0
  private var end = 0
  /// The most of `storage` that has been written to.
  private var touched = 0

  /// A decoder at the start of a stream.
  public init(frameBytesMax: Int = frameBytesMaxDefault) {
    self.frameBytesMax = frameBytesMax
    storage = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  }

  deinit { free(storage.baseAddress) }

  /// Bytes received and not yet given out as frames.
  public var bufferedBytes: Int { end - start }

  /// Bytes of memory held.
  public var capacityBytes: Int { storage.count }

  /// Bytes of memory to count against limits, in proportion to what was received: memory for a length
  /// that was only announced is reserved, but the system does not provide it before it is written to.
  public var countedBytes: Int { min(storage.count, 2 * touched + Self.readBytesMin) }

  /// Memory for the next received bytes; empty only if the system refuses more.
  public mutating func space() -> UnsafeMutableRawBufferPointer {
    if start == end {
      start = 0
      end = 0
      if storage.count > Self.retainedBytes { resize(to: 0) }
    }
    // A long frame's rest is read without a gap; otherwise there is room for many short frames.
    let wanted = announced.map { max(Self.headerBytes + $0 - bufferedBytes, 1) } ?? 1
    if storage.count - end < min(wanted, Self.readBytesMin) || storage.count == 0 {
      makeRoom(for: wanted)
    }
    return UnsafeMutableRawBufferPointer(rebasing: storage[end...])
  }

  /// Takes in `count` bytes that were written at the start of `space()`.
  public mutating func received(_ count: Int) {
    precondition(count >= 0 && count <= storage.count - end)
    end += count
    touched = max(touched, end)
  }

  /// The next whole frame's payload, or nil if bytes are missing.
  public mutating func nextFrame() throws(FrameError) -> UnsafeRawBufferPointer? {
    guard let length = announced else { return nil }
    guard length <= frameBytesMax else { throw .tooLong(length: length, limit: frameBytesMax) }
    guard bufferedBytes >= Self.headerBytes + length else { return nil }
    let payload = start + Self.headerBytes
    start = payload + length
    return UnsafeRawBufferPointer(rebasing: storage[payload..<start])
  }

  /// Gives back memory that holds no bytes; a frame given out before is invalid afterwards.
  public mutating func releaseUnused() {
    guard bufferedBytes == 0 else { return }
    start = 0
    end = 0
    resize(to: 0)
  }

  /// The length of the frame that starts at `start`, once its 4 bytes are there.
  private var announced: Int? {
    guard bufferedBytes >= Self.headerBytes else { return nil }
    return Int(UInt32(bigEndian: storage.loadUnaligned(fromByteOffset: start, as: UInt32.self)))
  }

  private mutating func makeRoom(for wanted: Int) {
    let used = bufferedBytes
    if start > 0 {
      if used > 0, let base = storage.baseAddress {
        base.copyMemory(from: base + start, byteCount: used)
      }
      start = 0
      end = used
    }
    guard storage.count - used < min(wanted, Self.readBytesMin) || storage.count == 0 else {
      return
    }
    let isWhole = used + wanted <= Self.wholeBytesMax
    let most = isWhole ? used + wanted : max(2 * storage.count, Self.retainedBytes / 4)
    resize(to: max(min(most, used + wanted), used + Self.readBytesMin))
  }

  /// Changes nothing if the system refuses the memory.
  private mutating func resize(to capacity: Int) {
    var block: UnsafeMutableRawPointer?
    guard capacity == 0 || posix_memalign(&block, 64, capacity) == 0 else { return }
    let fresh = UnsafeMutableRawBufferPointer(start: block, count: capacity)
    let used = bufferedBytes
    if used > 0 { fresh.copyMemory(from: UnsafeRawBufferPointer(rebasing: storage[start..<end])) }
    free(storage.baseAddress)
    storage = fresh
    start = 0
    end = used
    touched = used
  }
}
