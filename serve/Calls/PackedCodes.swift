/// Sparse codes as bytes that nobody has checked yet, in compressed sparse rows: only values > 0,
/// indices ascending within a row.
public struct PackedCodes: Sendable {
  /// Where each row starts, and the end of the last: `UInt32 [tokens + 1]`.
  public var rowOffsets: SharedBytes
  /// The latents, in the dictionary's published order: `UInt32 [active]`.
  public var indices: SharedBytes
  /// Their activations: `Float [active]`.
  public var values: SharedBytes

  /// Codes as they are; `tokens()` and `checkRows(latents:)` check them.
  public init(rowOffsets: SharedBytes, indices: SharedBytes, values: SharedBytes) {
    self.rowOffsets = rowOffsets
    self.indices = indices
    self.values = values
  }

  /// Codes with a copy of the given arrays.
  public init(rowOffsets: [UInt32], indices: [UInt32], values: [Float]) {
    self.init(
      rowOffsets: SharedBytes(copying: rowOffsets), indices: SharedBytes(copying: indices),
      values: SharedBytes(copying: values))
  }

  /// Bytes of the three arrays together.
  package var byteCount: Int { rowOffsets.count + indices.count + values.count }

  /// The number of rows, after a check of the three sizes, which costs no pass over the data.
  ///
  /// - Throws: `ServerError` (INVALID_ARGUMENT) naming the array with the wrong size.
  public func tokens() throws(ServerError) -> Int {
    guard rowOffsets.count >= 4, rowOffsets.count % 4 == 0 else {
      throw ServerError(
        .invalidArgument,
        "codes.row_offsets: has \(rowOffsets.count) bytes; it must hold 4 for each token and 4 more"
      )
    }
    guard indices.count % 4 == 0, indices.count == values.count else {
      throw ServerError(
        .invalidArgument,
        "codes: indices has \(indices.count) bytes and values \(values.count); both must hold 4 for each active latent"
      )
    }
    return rowOffsets.count / 4 - 1
  }

  /// Checks rows: offsets must ascend, all together from 0 to the number of values; indices must
  /// ascend strictly and stay below `latents`; values must be finite and > 0. Call `tokens()` first.
  ///
  /// - Parameter rows: the rows to check; nil checks all.
  /// - Throws: `ServerError` (INVALID_ARGUMENT) naming the array and the token.
  public func checkRows(latents: Int, rows: Range<Int>? = nil) throws(ServerError) {
    try rowOffsets.withBytes { offsets throws(ServerError) in
      try indices.withBytes { indices throws(ServerError) in
        try values.withBytes { values throws(ServerError) in
          try Self.check(
            rows ?? 0..<offsets.count / 4 - 1, offsets: offsets, indices: indices, values: values,
            latents: latents)
        }
      }
    }
  }

  /// A copy of some of the rows, which have been checked.
  public func rows(_ rows: Range<Int>) -> (rowOffsets: [UInt32], indices: [UInt32], values: [Float])
  {
    let offsets = rowOffsets.withBytes { bytes in
      (rows.lowerBound...rows.upperBound).map {
        bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)
      }
    }
    let (start, end) = (Int(offsets[0]), Int(offsets[rows.count]))
    func copy<Element>(_ bytes: SharedBytes, of type: Element.Type) -> [Element] {
      bytes.withBytes { bytes in
        [Element](unsafeUninitializedCapacity: end - start) { target, count in
          UnsafeMutableRawBufferPointer(target).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: bytes[4 * start..<4 * end]))
          count = end - start
        }
      }
    }
    return (
      offsets.map { $0 - UInt32(start) }, copy(indices, of: UInt32.self),
      copy(values, of: Float.self)
    )
  }

  private static func check(
    _ rows: Range<Int>, offsets: UnsafeRawBufferPointer, indices: UnsafeRawBufferPointer,
    values: UnsafeRawBufferPointer, latents: Int
  ) throws(ServerError) {
    func fail(_ message: String) -> ServerError {
      ServerError(.invalidArgument, "codes.\(message)")
    }
    let active = indices.count / 4
    func offset(_ row: Int) -> Int {
      Int(offsets.loadUnaligned(fromByteOffset: 4 * row, as: UInt32.self))
    }
    let tokens = offsets.count / 4 - 1
    guard offset(0) == 0, offset(tokens) == active else {
      throw fail(
        "row_offsets: go from \(offset(0)) to \(offset(tokens)); they must go from 0 to \(active), the number of values"
      )
    }
    for token in rows {
      let (start, end) = (offset(token), offset(token + 1))
      guard start <= end, end <= active else {
        throw fail("row_offsets: token \(token) goes from \(start) to \(end); offsets must ascend")
      }
      var previous = -1
      for position in start..<end {
        let index = Int(indices.loadUnaligned(fromByteOffset: 4 * position, as: UInt32.self))
        guard index > previous else {
          throw fail("indices: token \(token) has \(index) after \(previous); they must ascend")
        }
        guard index < latents else {
          throw fail(
            "indices: token \(token) names latent \(index); there are \(latents), 0 to \(latents - 1)"
          )
        }
        let value = values.loadUnaligned(fromByteOffset: 4 * position, as: Float.self)
        guard value > 0, value.isFinite else {
          throw fail("values: token \(token) has \(value); values must be finite and above 0")
        }
        previous = index
      }
    }
  }
}
