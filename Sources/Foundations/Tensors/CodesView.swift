/// Sparse codes in somebody else's memory, as compressed sparse rows: little-endian, any alignment.
///
/// Sound codes have offsets that begin at 0, never descend and end at the number of active latents;
/// indices that ascend strictly within a token; and values that are finite and > 0. A latent that is
/// 0 is not active, and ReLU leaves none below. `check` is the one place that says so.
public struct CodesView {
  private let rowOffsets: UnsafeRawBufferPointer
  private let indices: UnsafeRawBufferPointer
  private let values: UnsafeRawBufferPointer?
  /// Number of tokens.
  public let tokens: Int
  /// Number of active latents of all tokens together.
  public let active: Int

  /// A view of three arrays, valid as long as they are.
  ///
  /// - Parameters:
  ///   - rowOffsets: UInt32 [tokens + 1]
  ///   - indices: UInt32 [active]
  ///   - values: Float [active]; nil for latents without values.
  /// - Throws: `CodesError.offsetBytes` or `.arrayBytes` if sizes do not fit. Nothing else is looked
  ///   at.
  public init(
    rowOffsets: UnsafeRawBufferPointer, indices: UnsafeRawBufferPointer,
    values: UnsafeRawBufferPointer?
  ) throws(CodesError) {
    guard rowOffsets.count >= 4, rowOffsets.count % 4 == 0 else {
      throw .offsetBytes(rowOffsets.count)
    }
    guard indices.count % 4 == 0, values?.count ?? indices.count == indices.count else {
      throw .arrayBytes(indices: indices.count, values: values?.count ?? 0)
    }
    self.rowOffsets = rowOffsets
    self.indices = indices
    self.values = values
    tokens = rowOffsets.count / 4 - 1
    active = indices.count / 4
  }

  /// Checks that codes are sound.
  ///
  /// - Precondition: `range` lies within 0 ..< tokens.
  /// - Parameters:
  ///   - range: the tokens to check; nil checks all.
  ///   - latents: indices must be less than this; nil does not bound them.
  /// - Throws: `CodesError` for the first fault.
  public func check(
    tokens range: Range<Int>? = nil, latents: Int? = nil
  ) throws(CodesError) {
    let range = range ?? 0..<tokens
    precondition(range.lowerBound >= 0 && range.upperBound <= tokens)
    guard offset(0) == 0, offset(tokens) == active else {
      throw .ends(first: offset(0), last: offset(tokens), active: active)
    }
    let bound = latents ?? Int(UInt32.max) + 1
    for token in range {
      let (start, end) = (offset(token), offset(token + 1))
      guard start <= end, end <= active else {
        throw .offsets(token: token, start: start, end: end)
      }
      var previous = -1
      for position in start..<end {
        let index = Int(indices.loadUnaligned(fromByteOffset: 4 * position, as: UInt32.self))
        guard index > previous else { throw .order(token: token, index: index, previous: previous) }
        guard index < bound else { throw .latent(token: token, index: index, latents: bound) }
        previous = index
        guard let values else { continue }
        let value = values.loadUnaligned(fromByteOffset: 4 * position, as: Float.self)
        guard value > 0, value.isFinite else { throw .value(token: token, value: value) }
      }
    }
  }

  /// The start of a token's latents; for `tokens`, the end of the last token's.
  func offset(_ token: Int) -> Int {
    Int(rowOffsets.loadUnaligned(fromByteOffset: 4 * token, as: UInt32.self))
  }

  /// Copies of some tokens' rows.
  func rows(
    _ range: Range<Int>
  ) -> (rowOffsets: [UInt32], indices: [UInt32], values: [Float]) {
    // The offset of no token has been checked.
    guard !range.isEmpty else { return ([0], [], []) }
    let (start, end) = (offset(range.lowerBound), offset(range.upperBound))
    func copy<Element>(_ bytes: UnsafeRawBufferPointer, of type: Element.Type) -> [Element] {
      [Element](unsafeUninitializedCapacity: end - start) { target, count in
        UnsafeMutableRawBufferPointer(target).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: bytes[4 * start..<4 * end]))
        count = end - start
      }
    }
    return (
      (range.lowerBound...range.upperBound).map { UInt32(offset($0) - start) },
      copy(indices, of: UInt32.self), values.map { copy($0, of: Float.self) } ?? []
    )
  }
}

/// Why codes are not sound.
public enum CodesError: Error, CustomStringConvertible, Sendable {
  /// The number of bytes of row_offsets is not 4 for each token and 4 more.
  case offsetBytes(Int)
  /// Indices and values do not have the same number of bytes, 4 for each active latent.
  case arrayBytes(indices: Int, values: Int)
  /// The offsets do not go from 0 to the number of active latents.
  case ends(first: Int, last: Int, active: Int)
  /// A token's end is before its start or after the last active latent.
  case offsets(token: Int, start: Int, end: Int)
  /// A token's index is not greater than the one before it.
  case order(token: Int, index: Int, previous: Int)
  /// A token's index is not less than the number of latents.
  case latent(token: Int, index: Int, latents: Int)
  /// A token's value is not finite or not > 0.
  case value(token: Int, value: Float)

  /// The array, the token and the limit.
  public var description: String {
    switch self {
    case .offsetBytes(let count):
      "row_offsets: has \(count) bytes; it must hold 4 for each token and 4 more"
    case .arrayBytes(let indices, let values):
      "indices has \(indices) bytes and values \(values); both must hold 4 for each active latent"
    case .ends(let first, let last, let active):
      "row_offsets: go from \(first) to \(last); they must go from 0 to \(active), the number of values"
    case .offsets(let token, let start, let end):
      "row_offsets: token \(token) goes from \(start) to \(end); offsets must ascend"
    case .order(let token, let index, let previous):
      "indices: token \(token) has \(index) after \(previous); they must ascend"
    case .latent(let token, let index, let latents):
      "indices: token \(token) names latent \(index); there are \(latents), 0 to \(latents - 1)"
    case .value(let token, let value):
      "values: token \(token) has \(value); values must be finite and above 0"
    }
  }
}
