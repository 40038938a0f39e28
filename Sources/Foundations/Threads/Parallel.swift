internal import CSched
internal import Dispatch
internal import Glibc
internal import Synchronization

/// A number of threads to split work over. What comes out never depends on it.
public struct Parallel: Sendable {
  /// Number of threads.
  public let threads: Int

  /// Splits over `threads`, at least one: unless said otherwise one for each core that this process
  /// may run on.
  public init(threads: Int = Parallel.available) { self.threads = max(1, threads) }

  /// Number of cores that this process may run on, as sched_setaffinity(2) or a container limits them.
  public static var available: Int {
    var set = [UInt8](repeating: 0, count: 8192 / 8)
    guard sched_cores_of_thread(0, set.count, &set) == 0 else {
      return max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
    }
    return max(1, set.reduce(0) { $0 + $1.nonzeroBitCount })
  }

  /// Calls `body` once a thread with consecutive ranges that cover 0 ..< count.
  public func forRanges(_ count: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void) {
    let parts = max(1, min(threads, count))
    Self.perform(parts) { part in
      body(part, count * part / parts..<count * (part + 1) / parts)
    }
  }

  /// Calls `body` for every block of at most `size` of 0 ..< count. Blocks are dealt out as threads
  /// become free; `thread` is below `threads`, and no two calls at a time have the same.
  public func forBlocks(
    _ count: Int, size: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void
  ) {
    let blocks = (count + size - 1) / size
    guard blocks > 1 else {
      if blocks == 1 { body(0, 0..<count) }
      return
    }
    let next = Atomic(0)
    Self.perform(min(threads, blocks)) { thread in
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

/// What callers use that are not told a number of threads.
extension Parallel {
  private static let machine = Parallel()
  /// Number of cores available when first asked.
  public static var threads: Int { machine.threads }

  /// As the method of the same name, on all cores.
  public static func forRanges(
    _ count: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void
  ) { machine.forRanges(count, body) }

  /// As the method of the same name, on all cores.
  public static func forBlocks(
    _ count: Int, size: Int, _ body: (_ thread: Int, _ range: Range<Int>) -> Void
  ) { machine.forBlocks(count, size: size, body) }
}
