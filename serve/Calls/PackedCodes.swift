public import GranuleTensors

/// Sparse codes as bytes that nobody has checked yet, in compressed sparse rows.
public struct PackedCodes: Sendable {
  /// Where each row starts, and the end of the last: `UInt32 [tokens + 1]`.
  public var rowOffsets: SharedBytes
  /// The latents, in the dictionary's published order: `UInt32 [active]`.
  public var indices: SharedBytes
  /// Their activations: `Float [active]`.
  public var values: SharedBytes

  /// Codes as they are; `tokens()`, `check` and `sparseCodes` check them.
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

  /// Copies of a request's pieces as one, in the order of the tokens.
  public init(joining pieces: [SparseCodes]) {
    let tokens = pieces.reduce(0) { $0 + $1.tokens }
    let active = pieces.reduce(0) { $0 + $1.indices.count }
    let rowOffsets = MemoryBlock(byteCount: (tokens + 1) * 4)
    let indices = MemoryBlock(byteCount: active * 4)
    let values = MemoryBlock(byteCount: active * 4)
    let offsets = rowOffsets.bytes.bindMemory(to: UInt32.self)
    offsets[0] = 0
    var (row, base) = (0, 0)
    for piece in pieces {
      for offset in piece.rowOffsets.dropFirst() {
        row += 1
        offsets[row] = UInt32(base) + offset
      }
      piece.indices.withUnsafeBytes {
        UnsafeMutableRawBufferPointer(rebasing: indices.bytes[(base * 4)...]).copyMemory(from: $0)
      }
      piece.values.withUnsafeBytes {
        UnsafeMutableRawBufferPointer(rebasing: values.bytes[(base * 4)...]).copyMemory(from: $0)
      }
      base += piece.indices.count
    }
    self.init(
      rowOffsets: SharedBytes(rowOffsets), indices: SharedBytes(indices),
      values: SharedBytes(values))
  }

  /// Bytes of the three arrays together.
  package var byteCount: Int { rowOffsets.count + indices.count + values.count }

  /// The number of tokens, after a check of the three sizes, which costs no pass over the data.
  ///
  /// - Throws: `ServerError` (INVALID_ARGUMENT) naming the array with the wrong size.
  public func tokens() throws(ServerError) -> Int {
    try withView { (view) throws(CodesError) in view.tokens }
  }

  /// Checks that codes are sound, as `CodesView` says.
  ///
  /// - Parameter latents: indices must be less than this; nil does not bound them.
  /// - Throws: `ServerError` (INVALID_ARGUMENT) naming the array and the token.
  public func check(latents: Int? = nil) throws(ServerError) {
    try withView { (view) throws(CodesError) in try view.check(latents: latents) }
  }

  /// Some tokens' codes as values.
  ///
  /// - Parameters:
  ///   - range: the tokens; nil copies all.
  ///   - latents: indices must be less than this; nil does not bound them.
  /// - Throws: `ServerError` (INVALID_ARGUMENT) naming the array and the token, if they are not
  ///   sound.
  public func sparseCodes(
    tokens range: Range<Int>? = nil, latents: Int? = nil
  ) throws(ServerError) -> SparseCodes {
    try withView { (view) throws(CodesError) in
      try SparseCodes(copying: view, tokens: range, latents: latents)
    }
  }

  /// Calls `body` with a view of the codes; `hasValues` is false for latents that are removed.
  package func withView<R>(
    named field: String = "codes", hasValues: Bool = true,
    _ body: (CodesView) throws(CodesError) -> R
  ) throws(ServerError) -> R {
    do throws(CodesError) {
      return try rowOffsets.withBytes { (offsets) throws(CodesError) in
        try indices.withBytes { (indices) throws(CodesError) in
          try values.withBytes { (values) throws(CodesError) in
            try body(
              CodesView(rowOffsets: offsets, indices: indices, values: hasValues ? values : nil))
          }
        }
      }
    } catch {
      var separator = "."
      // The one fault of two arrays.
      if case .arrayBytes = error { separator = ": " }
      throw ServerError(.invalidArgument, "\(field)\(separator)\(error)")
    }
  }
}
