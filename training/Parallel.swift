internal import Dispatch
internal import Glibc

/// Splits work over the cores; what comes out never depends on how it was split.
enum Parallel {
  /// Number of threads: one a core.
  static let threads = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))

  /// Calls `body` once a thread with consecutive ranges that cover 0 ..< count.
  static func forRanges(_ count: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void) {
    let parts = max(1, min(threads, count))
    perform(parts) { part in
      body(part, count * part / parts..<count * (part + 1) / parts)
    }
  }

  /// Calls `body` for every block of at most `size` of 0 ..< count, blocks dealt out as threads
  /// become free.
  static func forBlocks(_ count: Int, size: Int, _ body: (Range<Int>) -> Void) {
    perform((count + size - 1) / size) { block in
      body(block * size..<min((block + 1) * size, count))
    }
  }

  private static func perform(_ iterations: Int, _ body: (Int) -> Void) {
    withoutActuallyEscaping(body) { body in
      // Safe although the compiler cannot see it: the bodies of this room write to ranges of memory
      // that do not overlap, and all have returned before this does.
      nonisolated(unsafe) let body = body
      DispatchQueue.concurrentPerform(iterations: iterations) { body($0) }
    }
  }
}
