internal import CGranuleKernels
internal import GranuleFiles

/// The active latents of some tokens, in compressed sparse rows that are sound, as `CodesView` says.
public struct SparseCodes: Sendable, Equatable {
  /// The start of each token's latents in `indices` and `values`, and the end of the last's:
  /// [tokens + 1].
  public private(set) var rowOffsets: [UInt32] = [0]
  /// Latent indices, ascending within a token: [nonzeros].
  public private(set) var indices: [UInt32] = []
  /// The latents' values: [nonzeros].
  public private(set) var values: [Float] = []

  /// Codes of no tokens.
  public init() {}

  /// Codes from arrays, checked.
  ///
  /// - Throws: `CodesError` if they are not sound, as `CodesView` says.
  public init(
    rowOffsets: [UInt32], indices: [UInt32], values: [Float]
  ) throws(CodesError) {
    try rowOffsets.withBytes { (offsetBytes) throws(CodesError) in
      try indices.withBytes { (indexBytes) throws(CodesError) in
        try values.withBytes { (valueBytes) throws(CodesError) in
          try CodesView(rowOffsets: offsetBytes, indices: indexBytes, values: valueBytes).check()
        }
      }
    }
    self.rowOffsets = rowOffsets
    self.indices = indices
    self.values = values
  }

  /// A copy of some tokens' codes, checked.
  ///
  /// - Parameters:
  ///   - range: the tokens; nil copies all.
  ///   - latents: indices must be less than this; nil does not bound them.
  /// - Precondition: the view has values, and `range` is within its tokens.
  /// - Throws: `CodesError` if they are not sound, as `CodesView` says.
  public init(
    copying view: CodesView, tokens range: Range<Int>? = nil, latents: Int? = nil
  ) throws(CodesError) {
    try view.check(tokens: range, latents: latents)
    (rowOffsets, indices, values) = view.rows(range ?? 0..<view.tokens)
    precondition(indices.count == values.count)
  }

  /// Number of tokens.
  public var tokens: Int { rowOffsets.count - 1 }
  /// Mean number of active latents a token; 0 without tokens.
  public var l0: Double { tokens == 0 ? 0 : Double(indices.count) / Double(tokens) }

  /// The codes of some tokens.
  public func tokens(_ range: Range<Int>) -> SparseCodes {
    let (start, end) = (rowOffsets[range.lowerBound], rowOffsets[range.upperBound])
    var result = SparseCodes()
    result.rowOffsets = rowOffsets[range.lowerBound...range.upperBound].map { $0 - start }
    result.indices = Array(indices[Int(start)..<Int(end)])
    result.values = Array(values[Int(start)..<Int(end)])
    return result
  }

  /// The codes of the largest values of all tokens together, at most `count`; of equal values the first
  /// are kept. The threshold is the least value kept, 0 if there are fewer than `count`.
  package func largest(_ count: Int) -> (codes: SparseCodes, threshold: Float) {
    let kth = gk_kth_largest_positive(values, values.count, count)
    let above = values.count { $0 > kth }
    var equalLeft = kth > 0 ? count - above : 0
    var codes = SparseCodes()
    codes.rowOffsets.reserveCapacity(rowOffsets.count)
    codes.indices.reserveCapacity(min(count, values.count))
    codes.values.reserveCapacity(min(count, values.count))
    for token in 0..<tokens {
      for position in Int(rowOffsets[token])..<Int(rowOffsets[token + 1]) {
        let isEqual = values[position] == kth && equalLeft > 0
        if isEqual { equalLeft -= 1 }
        if isEqual || values[position] > kth {
          codes.indices.append(indices[position])
          codes.values.append(values[position])
        }
      }
      codes.rowOffsets.append(UInt32(codes.indices.count))
    }
    return (codes, kth)
  }

  /// Codes of tokens without active latents.
  package init(emptyTokens tokens: Int) {
    rowOffsets = [UInt32](repeating: 0, count: tokens + 1)
  }

  /// Adds a token. indices ascend; indices, values: [active]
  package mutating func append(
    indices newIndices: UnsafeBufferPointer<UInt32>, values newValues: UnsafeBufferPointer<Float>
  ) {
    indices.append(contentsOf: newIndices)
    values.append(contentsOf: newValues)
    rowOffsets.append(UInt32(indices.count))
  }

  /// Adds the tokens of `other` after these.
  ///
  /// - Precondition: together they have fewer than 2³² active latents.
  public mutating func append(_ other: SparseCodes) {
    let base = UInt32(indices.count)
    indices.append(contentsOf: other.indices)
    values.append(contentsOf: other.values)
    rowOffsets.append(contentsOf: other.rowOffsets.dropFirst().map { base + $0 })
  }

  /// The codes without their first `count` latents.
  package func droppingLatents(_ count: Int) -> SparseCodes {
    part(split: count) { _, split, end in split..<end }
  }

  /// The codes with the latents of `others`, all of which are higher, appended to each token's.
  ///
  /// - Precondition: both have the same number of tokens.
  package func appendingLatents(of others: SparseCodes) -> SparseCodes {
    precondition(tokens == others.tokens)
    var result = SparseCodes()
    result.indices.reserveCapacity(indices.count + others.indices.count)
    result.values.reserveCapacity(values.count + others.values.count)
    for token in 0..<tokens {
      for codes in [self, others] {
        let range = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
        result.indices += codes.indices[range]
        result.values += codes.values[range]
      }
      result.rowOffsets.append(UInt32(result.indices.count))
    }
    return result
  }

  /// The codes' latents among the first G: the full-width code's share of that prefix.
  public func prefix(granularity: Int) -> SparseCodes {
    part(split: granularity) { start, split, _ in start..<split }
  }

  /// A part of each token's latents.
  ///
  /// - Parameter keeping: the positions to keep, given where a token's latents start, where those begin
  ///   whose index is at least `latent`, and where they end.
  private func part(
    split latent: Int, _ keeping: (_ start: Int, _ split: Int, _ end: Int) -> Range<Int>
  ) -> SparseCodes {
    var result = SparseCodes()
    result.indices.reserveCapacity(indices.count)
    result.values.reserveCapacity(values.count)
    indices.withUnsafeBufferPointer { indices in
      values.withUnsafeBufferPointer { values in
        for token in 0..<tokens {
          let (start, end) = (Int(rowOffsets[token]), Int(rowOffsets[token + 1]))
          let split = start + indices[start..<end].prefix { $0 < UInt32(latent) }.count
          let kept = keeping(start, split, end)
          result.append(
            indices: UnsafeBufferPointer(rebasing: indices[kept]),
            values: UnsafeBufferPointer(rebasing: values[kept]))
        }
      }
    }
    return result
  }
}
