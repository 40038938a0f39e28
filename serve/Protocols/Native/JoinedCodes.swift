import GranuleDictionary
import GranuleWire

extension PackedCodes {
  /// The pieces of a request as one, in the order of the tokens.
  init(joining pieces: [SparseCodes]) {
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
}
