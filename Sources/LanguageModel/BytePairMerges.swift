internal import HeapModule

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
  /// Symbols form a linked list, in which a merge takes the place of its left symbol. A heap holds the
  /// merges that apply; one whose symbols have changed since is passed over when it comes up.
  func apply(to symbols: inout [Int32], scratch: inout Scratch) {
    let count = symbols.count
    guard count > 1 else { return }
    scratch.next = (0..<count).map { Int32($0 + 1 < count ? $0 + 1 : -1) }
    scratch.previous = (0..<count).map { Int32($0 - 1) }
    for left in 0..<count - 1 { push(left, left + 1, symbols, &scratch) }
    while let candidate = scratch.candidates.popMin() {
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
    scratch.candidates.insert(
      Candidate(
        rank: merge.rank, left: Int32(left), leftSymbol: symbols[left],
        rightSymbol: symbols[right], symbol: merge.symbol))
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// A merge that applies at a place; of lower rank first, then further left.
  fileprivate struct Candidate: Comparable {
    var rank: Int32
    var left: Int32
    var leftSymbol: Int32
    var rightSymbol: Int32
    var symbol: Int32

    static func < (one: Candidate, other: Candidate) -> Bool {
      (one.rank, one.left) < (other.rank, other.left)
    }
  }

  /// Memory that is used again from word to word.
  struct Scratch {
    fileprivate var next: [Int32] = []
    fileprivate var previous: [Int32] = []
    /// Empty between two words.
    fileprivate var candidates = Heap<Candidate>()
  }
}
