internal import Dispatch
internal import Glibc
internal import Synchronization

/// Splits work over the cores; what comes out never depends on how it was split.
public enum Parallel {
  /// Number of threads: one a core.
  public static let threads = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))

  /// Calls `body` once a thread with consecutive ranges that cover 0 ..< count.
  public static func forRanges(_ count: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void) {
    let parts = max(1, min(threads, count))
    perform(parts) { part in
      body(part, count * part / parts..<count * (part + 1) / parts)
    }
  }

  /// Calls `body` for every block of at most `size` of 0 ..< count, blocks dealt out as threads
  /// become free; `thread` is below `threads`, and no two calls at a time have the same.
  public static func forBlocks(
    _ count: Int, size: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void
  ) {
    let blocks = (count + size - 1) / size
    guard blocks > 1 else {
      if blocks == 1 { body(0, 0..<count) }
      return
    }
    let next = Atomic(0)
    perform(min(threads, blocks)) { thread in
      while true {
        let block = next.wrappingAdd(1, ordering: .relaxed).oldValue
        guard block < blocks else { return }
        body(thread, block * size..<min((block + 1) * size, count))
      }
    }
  }

  /// Calls `body` once with each number below `count`, on as many threads as there are.
  public static func perform(_ count: Int, _ body: (_ number: Int) -> Void) {
    guard count > 1 else {
      if count == 1 { body(0) }
      return
    }
    withoutActuallyEscaping(body) { body in
      // Safe although the compiler cannot see it: the bodies that are passed here write to ranges of
      // memory that do not overlap, and all have returned before this does.
      nonisolated(unsafe) let body = body
      DispatchQueue.concurrentPerform(iterations: count) { body($0) }
    }
  }
}
