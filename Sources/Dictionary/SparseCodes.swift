internal import CGranuleKernels

/// The active latents of some tokens, in compressed sparse rows.
public struct SparseCodes: Sendable, Equatable {
  /// Where each token's latents begin in `indices` and `values`, and the end of the last:
  /// [tokens + 1].
  public private(set) var rowOffsets: [UInt32] = [0]
  /// Latent indices, ascending within a token: [nonzeros].
  public private(set) var indices: [UInt32] = []
  /// The latents' values: [nonzeros].
  public private(set) var values: [Float] = []

  /// No tokens.
  public init() {}

  /// Codes from elsewhere, checked.
  ///
  /// - Throws: `CodesError` where the offsets do not begin at 0, descend, or do not end at the
  ///   number of indices; where indices do not ascend within a token; where a value is not finite.
  public init(
    rowOffsets: [UInt32], indices: [UInt32], values: [Float]
  ) throws(CodesError) {
    guard rowOffsets.first == 0 else {
      throw CodesError(
        "row_offsets begin with \(rowOffsets.first.map(String.init) ?? "nothing"), 0 is needed")
    }
    guard indices.count == values.count else {
      throw CodesError("there are \(indices.count) indices and \(values.count) values")
    }
    guard Int(rowOffsets[rowOffsets.count - 1]) == indices.count else {
      throw CodesError(
        "row_offsets end with \(rowOffsets[rowOffsets.count - 1]), there are \(indices.count) indices"
      )
    }
    for token in 0..<rowOffsets.count - 1 {
      let (start, end) = (Int(rowOffsets[token]), Int(rowOffsets[token + 1]))
      guard start <= end, end <= indices.count else {
        throw CodesError("row_offsets descend after token \(token)")
      }
      for position in start..<end {
        guard position == start || indices[position - 1] < indices[position] else {
          throw CodesError("indices of token \(token) do not ascend")
        }
        guard values[position].isFinite else {
          throw CodesError(
            "the value of token \(token)'s latent \(indices[position]) is not finite")
        }
      }
    }
    self.rowOffsets = rowOffsets
    self.indices = indices
    self.values = values
  }

  /// Number of tokens.
  public var tokens: Int { rowOffsets.count - 1 }
  /// Mean number of active latents a token; 0 without tokens.
  public var l0: Double { tokens == 0 ? 0 : Double(indices.count) / Double(tokens) }

  /// The largest values of all tokens together, at most `count`, of equal ones the first; and the
  /// least of them, 0 where there are fewer.
  func largest(_ count: Int) -> (codes: SparseCodes, threshold: Float) {
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

  /// Adds a token. indices ascend; indices, values: [active]
  package mutating func append(
    indices newIndices: UnsafeBufferPointer<UInt32>, values newValues: UnsafeBufferPointer<Float>
  ) {
    indices.append(contentsOf: newIndices)
    values.append(contentsOf: newValues)
    rowOffsets.append(UInt32(indices.count))
  }

  /// Adds the tokens of `other` after these.
  public mutating func append(_ other: SparseCodes) {
    let base = UInt32(indices.count)
    indices.append(contentsOf: other.indices)
    values.append(contentsOf: other.values)
    rowOffsets.append(contentsOf: other.rowOffsets.dropFirst().map { base + $0 })
  }

  /// The codes without their first `count` latents.
  package func droppingLatents(_ count: Int) -> SparseCodes {
    var result = SparseCodes()
    result.indices.reserveCapacity(indices.count)
    result.values.reserveCapacity(values.count)
    indices.withUnsafeBufferPointer { indices in
      values.withUnsafeBufferPointer { values in
        for token in 0..<tokens {
          let (start, end) = (Int(rowOffsets[token]), Int(rowOffsets[token + 1]))
          let first = start + indices[start..<end].prefix { $0 < UInt32(count) }.count
          result.append(
            indices: UnsafeBufferPointer(rebasing: indices[first..<end]),
            values: UnsafeBufferPointer(rebasing: values[first..<end]))
        }
      }
    }
    return result
  }

  /// For each token these latents, then those of `others`, all of which are higher.
  ///
  /// - Precondition: both are of the same number of tokens.
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

  /// The codes' first latents only: what a full-width code leaves of a prefix of G latents.
  public func prefix(granularity: Int) -> SparseCodes {
    var result = SparseCodes()
    indices.withUnsafeBufferPointer { indices in
      values.withUnsafeBufferPointer { values in
        for token in 0..<tokens {
          let (start, end) = (Int(rowOffsets[token]), Int(rowOffsets[token + 1]))
          let kept = start + indices[start..<end].prefix { $0 < UInt32(granularity) }.count
          result.append(
            indices: UnsafeBufferPointer(rebasing: indices[start..<kept]),
            values: UnsafeBufferPointer(rebasing: values[start..<kept]))
        }
      }
    }
    return result
  }
}

/// Why codes are not valid.
public struct CodesError: Error, CustomStringConvertible, Sendable {
  /// What is wrong, and where.
  public let description: String

  init(_ description: String) { self.description = description }
}
