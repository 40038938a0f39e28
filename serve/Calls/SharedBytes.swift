/// Immutable bytes and what keeps them alive; copying a value copies no bytes.
public struct SharedBytes: @unchecked Sendable {
  // Safe to share between threads: nobody writes the bytes once a value exists, and `owner` is
  // Sendable.
  private let owner: (any AnyObject & Sendable)?
  private let buffer: UnsafeRawBufferPointer

  /// No bytes.
  public init() {
    owner = nil
    buffer = UnsafeRawBufferPointer(start: nil, count: 0)
  }

  /// Bytes that `owner` keeps alive and that nobody writes from now on.
  public init(_ buffer: UnsafeRawBufferPointer, owner: any AnyObject & Sendable) {
    self.owner = owner
    self.buffer = buffer
  }

  /// A copy of an array's elements, as they lie in memory.
  public init<Element: BitwiseCopyable>(copying array: [Element]) {
    let block = MemoryBlock(byteCount: array.count * MemoryLayout<Element>.stride)
    array.withUnsafeBytes { block.bytes.copyMemory(from: $0) }
    self.init(block)
  }

  /// The bytes of a block that nobody writes from now on.
  public init(_ block: MemoryBlock) {
    self.init(UnsafeRawBufferPointer(block.bytes), owner: block)
  }

  /// How many bytes.
  public var count: Int { buffer.count }

  /// Calls `body` with the bytes, which live at least as long as the call.
  public func withBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R
  {
    defer { withExtendedLifetime(owner) {} }
    return try body(buffer)
  }

  /// A copy of the bytes as an array of `Element`, which must be what they hold; a rest that fills no
  /// element is left out.
  public func array<Element: BitwiseCopyable>(of type: Element.Type) -> [Element] {
    withBytes { bytes in
      let count = bytes.count / MemoryLayout<Element>.stride
      return [Element](unsafeUninitializedCapacity: count) { target, initialized in
        UnsafeMutableRawBufferPointer(target).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: bytes[..<(count * MemoryLayout<Element>.stride)]))
        initialized = count
      }
    }
  }

  /// The first byte, for a holder that passes the pointer on to C.
  package var pointer: UnsafeRawPointer? { buffer.baseAddress }
}

/// A block of memory aligned to 64 bytes, freed with its last reference; not initialised.
public final class MemoryBlock: @unchecked Sendable {
  // Safe to share: writers agree among themselves who writes which part, and readers come after
  // them.

  /// The block.
  public let bytes: UnsafeMutableRawBufferPointer

  /// A block of `byteCount` bytes, which may be 0.
  public init(byteCount: Int) {
    bytes = .allocate(byteCount: byteCount, alignment: 64)
  }

  deinit { bytes.deallocate() }
}
