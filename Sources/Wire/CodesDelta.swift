internal import GranuleTensors

/// Changes from one stage's codes to the next's, and back again.
extension PackedCodes {
  /// The changes from `previous`, the previous stage's codes of the same tokens, to these: latents that
  /// are new or whose value differs, and latents that are no longer active, without values. Both codes
  /// must be well-formed.
  public func difference(from previous: PackedCodes) -> (changed: PackedCodes, removed: PackedCodes)
  {
    let new = Rows(self)
    let old = Rows(previous)
    var changed = (offsets: [UInt32(0)], indices: [UInt32](), values: [Float]())
    var removed = (offsets: [UInt32(0)], indices: [UInt32]())
    for token in 0..<new.offsets.count - 1 {
      var (newAt, oldAt) = (new.start(token), old.start(token))
      let (newEnd, oldEnd) = (new.end(token), old.end(token))
      while newAt < newEnd || oldAt < oldEnd {
        if newAt == newEnd || (oldAt < oldEnd && old.indices[oldAt] < new.indices[newAt]) {
          removed.indices.append(old.indices[oldAt])
          oldAt += 1
          continue
        }
        let isKnown = oldAt < oldEnd && old.indices[oldAt] == new.indices[newAt]
        if !isKnown || old.values[oldAt].bitPattern != new.values[newAt].bitPattern {
          changed.indices.append(new.indices[newAt])
          changed.values.append(new.values[newAt])
        }
        if isKnown { oldAt += 1 }
        newAt += 1
      }
      changed.offsets.append(UInt32(changed.indices.count))
      removed.offsets.append(UInt32(removed.indices.count))
    }
    return (
      PackedCodes(rowOffsets: changed.offsets, indices: changed.indices, values: changed.values),
      PackedCodes(rowOffsets: removed.offsets, indices: removed.indices, values: [])
    )
  }

  /// These codes with the changes of the next stage, which `difference(from:)` gave.
  ///
  /// - Parameters:
  ///   - changed: latents that are new or whose value differs, in the rows of the same tokens.
  ///   - removed: latents that are no longer active, without values.
  /// - Throws: INVALID_ARGUMENT if the changes are not well-formed or do not fit these codes.
  public func applying(changed: PackedCodes, removed: PackedCodes) throws(ServerError)
    -> PackedCodes
  {
    let tokens = try tokens()
    guard try changed.tokens() == tokens, removed.rowOffsets.count == rowOffsets.count else {
      throw ServerError(
        .invalidArgument, "codes, removed: differ from the previous stage in their number of tokens"
      )
    }
    try check()
    try changed.check()
    try removed.withView(named: "removed", hasValues: false) { (view) throws(CodesError) in
      try view.check()
    }
    let old = Rows(self)
    let new = Rows(changed)
    let gone = Rows(removed)
    var offsets: [UInt32] = [0]
    var indices: [UInt32] = []
    var values: [Float] = []
    for token in 0..<tokens {
      var (oldAt, newAt, goneAt) = (old.start(token), new.start(token), gone.start(token))
      let (oldEnd, newEnd, goneEnd) = (old.end(token), new.end(token), gone.end(token))
      while oldAt < oldEnd || newAt < newEnd {
        if newAt < newEnd, oldAt == oldEnd || new.indices[newAt] <= old.indices[oldAt] {
          if oldAt < oldEnd, new.indices[newAt] == old.indices[oldAt] { oldAt += 1 }
          indices.append(new.indices[newAt])
          values.append(new.values[newAt])
          newAt += 1
        } else {
          if goneAt < goneEnd, gone.indices[goneAt] == old.indices[oldAt] {
            goneAt += 1
          } else {
            indices.append(old.indices[oldAt])
            values.append(old.values[oldAt])
          }
          oldAt += 1
        }
      }
      guard goneAt == goneEnd else {
        throw ServerError(
          .invalidArgument,
          "removed.indices: token \(token) loses latent \(gone.indices[goneAt]), which it does not have"
        )
      }
      offsets.append(UInt32(indices.count))
    }
    return PackedCodes(rowOffsets: offsets, indices: indices, values: values)
  }
}

/// Codes as arrays.
private struct Rows {
  let offsets: [UInt32]
  let indices: [UInt32]
  let values: [Float]

  init(_ codes: PackedCodes) {
    offsets = codes.rowOffsets.array(of: UInt32.self)
    indices = codes.indices.array(of: UInt32.self)
    values = codes.values.array(of: Float.self)
  }

  func start(_ token: Int) -> Int { Int(offsets[token]) }
  func end(_ token: Int) -> Int { Int(offsets[token + 1]) }
}
