internal import Glibc

/// A block of float32 values, aligned to 64 bytes.
///
/// Whoever makes one fills it and then shares it: nothing guards a writer against readers.
public final class FloatStorage: @unchecked Sendable {
  // Unchecked: written only by its maker, before it is shared, as stated above; the trainer, which
  // keeps writing, gives each thread a range of its own.

  /// The first value.
  public let pointer: UnsafeMutablePointer<Float>
  /// Number of values.
  public let count: Int

  /// Zeros.
  public convenience init(count: Int) {
    self.init(uninitializedCount: count)
    memset(pointer, 0, count * MemoryLayout<Float>.stride)
  }

  /// Values that are to be written before they are read.
  package init(uninitializedCount count: Int) {
    precondition(count >= 0)
    self.count = count
    // Whole huge pages for large blocks: a dictionary is streamed through at every encode, and
    // 4 KiB pages would spend the time on address translation.
    let hugePage = 2 << 20
    let byteCount = max(count, 1) * MemoryLayout<Float>.stride
    let isLarge = byteCount >= hugePage
    var raw: UnsafeMutableRawPointer?
    let rounded = isLarge ? (byteCount + hugePage - 1) / hugePage * hugePage : byteCount
    let failure = posix_memalign(&raw, isLarge ? hugePage : 64, rounded)
    guard failure == 0, let raw else { fatalError("out of memory: \(byteCount) bytes asked for") }
    if isLarge { madvise(raw, rounded, MADV_HUGEPAGE) }
    pointer = raw.bindMemory(to: Float.self, capacity: max(count, 1))
  }

  /// A copy of `values`.
  public convenience init(_ values: some Collection<Float>) {
    self.init(uninitializedCount: values.count)
    var next = pointer
    for value in values {
      next.pointee = value
      next += 1
    }
  }

  /// A copy of another block.
  package convenience init(copying other: FloatStorage) {
    self.init(uninitializedCount: other.count)
    memcpy(pointer, other.pointer, count * MemoryLayout<Float>.stride)
  }

  deinit { free(pointer) }

  /// A copy of all values.
  public var array: [Float] { Array(values) }
  /// All values, for as long as the storage is held: of a temporary take `array`.
  public var values: UnsafeBufferPointer<Float> { .init(start: pointer, count: count) }
}
