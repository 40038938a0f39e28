/// Numbers in the order of their deadlines: a binary heap.
struct DeadlineQueue {
  private var heap: [(deadline: ContinuousClock.Instant, serial: UInt64)] = []

  var count: Int { heap.count }
  var first: (deadline: ContinuousClock.Instant, serial: UInt64)? { heap.first }

  mutating func insert(_ serial: UInt64, deadline: ContinuousClock.Instant) {
    heap.append((deadline, serial))
    var child = heap.count - 1
    while child > 0, heap[child].deadline < heap[(child - 1) / 2].deadline {
      heap.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func removeFirst() {
    guard let last = heap.popLast(), !heap.isEmpty else { return }
    heap[0] = last
    var parent = 0
    while true {
      var earliest = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && heap[child].deadline < heap[earliest].deadline {
        earliest = child
      }
      guard earliest != parent else { return }
      heap.swapAt(parent, earliest)
      parent = earliest
    }
  }

  /// Forgets numbers that are not wanted, and all but one entry of each number.
  mutating func keep(where isWanted: (UInt64) -> Bool) {
    var seen: Set<UInt64> = []
    // A sorted array is a heap.
    heap = heap.filter { isWanted($0.serial) && seen.insert($0.serial).inserted }
      .sorted { $0.deadline < $1.deadline }
  }
}
