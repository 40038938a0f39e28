/// The merges of a byte-pair tokenizer, and how they are applied to a word.
///
/// Symbols are numbers: at first a word is one symbol a byte. The merge of lowest rank that applies
/// anywhere is applied at its leftmost place, until none applies.
struct BytePairMerges: Sendable {
  /// What two neighbouring symbols become.
  struct Merge: Sendable {
    var rank: Int32
    var symbol: Int32
  }

  /// Merges by both symbols, the left one in the upper half.
  private var merges: [UInt64: Merge] = [:]

  /// Adds a merge; of two with the same parts the first counts.
  mutating func add(_ left: Int32, _ right: Int32, _ merge: Merge) {
    let key = Self.key(left, right)
    if merges[key] == nil { merges[key] = merge }
  }

  /// Merges the symbols of a word in place, in time n log n.
  ///
  /// How: symbols form a linked list, a merge takes the place of its left symbol; a heap holds the
  /// merges that apply, lowest rank first, then leftmost. One whose symbols have changed since is
  /// passed over when it comes up.
  func apply(to symbols: inout [Int32], scratch: inout Scratch) {
    let count = symbols.count
    guard count > 1 else { return }
    scratch.next = (0..<count).map { Int32($0 + 1 < count ? $0 + 1 : -1) }
    scratch.previous = (0..<count).map { Int32($0 - 1) }
    scratch.heap.removeAll(keepingCapacity: true)
    for left in 0..<count - 1 { push(left, left + 1, symbols, &scratch) }
    while let candidate = scratch.popFirst() {
      let left = Int(candidate.left)
      let right = Int(scratch.next[left])
      guard right >= 0, symbols[left] == candidate.leftSymbol,
        symbols[right] == candidate.rightSymbol
      else { continue }
      symbols[left] = candidate.symbol
      symbols[right] = -1
      let after = Int(scratch.next[right])
      scratch.next[left] = Int32(after)
      if after >= 0 {
        scratch.previous[after] = Int32(left)
        push(left, after, symbols, &scratch)
      }
      let before = Int(scratch.previous[left])
      if before >= 0 { push(before, left, symbols, &scratch) }
    }
    symbols.removeAll { $0 < 0 }
  }

  private func push(_ left: Int, _ right: Int, _ symbols: [Int32], _ scratch: inout Scratch) {
    guard let merge = merges[Self.key(symbols[left], symbols[right])] else { return }
    scratch.push(
      Candidate(
        rank: merge.rank, left: Int32(left), leftSymbol: symbols[left],
        rightSymbol: symbols[right], symbol: merge.symbol))
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// A merge that applies at a place.
  struct Candidate {
    var rank: Int32
    var left: Int32
    var leftSymbol: Int32
    var rightSymbol: Int32
    var symbol: Int32

    fileprivate func comes(before other: Candidate) -> Bool {
      (rank, left) < (other.rank, other.left)
    }
  }

  /// Memory that is used again from word to word.
  struct Scratch {
    fileprivate var next: [Int32] = []
    fileprivate var previous: [Int32] = []
    /// A binary heap: an element comes before those at 2i + 1 and 2i + 2.
    fileprivate var heap: [Candidate] = []

    fileprivate mutating func push(_ candidate: Candidate) {
      heap.append(candidate)
      var child = heap.count - 1
      while child > 0 {
        let parent = (child - 1) / 2
        guard heap[child].comes(before: heap[parent]) else { return }
        heap.swapAt(child, parent)
        child = parent
      }
    }

    fileprivate mutating func popFirst() -> Candidate? {
      guard let first = heap.first, let last = heap.popLast() else { return nil }
      guard !heap.isEmpty else { return first }
      heap[0] = last
      var parent = 0
      while true {
        var child = 2 * parent + 1
        guard child < heap.count else { return first }
        if child + 1 < heap.count, heap[child + 1].comes(before: heap[child]) { child += 1 }
        guard heap[child].comes(before: heap[parent]) else { return first }
        heap.swapAt(child, parent)
        parent = child
      }
    }
  }
}
