internal import HeapModule

/// Numbers in the order of their deadlines; of two with one deadline, the lower number comes first.
struct DeadlineQueue {
  private struct Entry: Comparable {
    var deadline: ContinuousClock.Instant
    var serial: UInt64

    static func < (one: Entry, other: Entry) -> Bool {
      (one.deadline, one.serial) < (other.deadline, other.serial)
    }
  }

  private var entries = Heap<Entry>()

  var count: Int { entries.count }
  var first: (deadline: ContinuousClock.Instant, serial: UInt64)? {
    entries.min.map { ($0.deadline, $0.serial) }
  }

  mutating func insert(_ serial: UInt64, deadline: ContinuousClock.Instant) {
    entries.insert(Entry(deadline: deadline, serial: serial))
  }

  mutating func removeFirst() { _ = entries.popMin() }

  /// Forgets numbers that are not wanted, and all but one entry of each number.
  mutating func keep(where isWanted: (UInt64) -> Bool) {
    var seen: Set<UInt64> = []
    entries = Heap(
      entries.unordered.filter { isWanted($0.serial) && seen.insert($0.serial).inserted })
  }
}
