internal import CGranuleKernels
internal import GranuleFiles
internal import GranuleTensors

/// The activations of one layer for a shard, as they gather, and their writing.
final class HarvestShard {
  private let dModel: Int
  private let type: ElementType
  private let rowBytes: Int
  private var buffer: UnsafeMutableRawBufferPointer
  private(set) var rows = 0

  init(dModel: Int, type: ElementType, rowsExpected: Int) {
    self.dModel = dModel
    self.type = type
    rowBytes = dModel * type.byteCount
    buffer = .allocate(byteCount: max(1, rowsExpected) * rowBytes, alignment: 64)
  }

  deinit { buffer.deallocate() }

  /// Forgets all rows.
  func removeAll() { rows = 0 }

  /// Appends a row.
  ///
  /// - Returns: false if the type cannot hold one of the values.
  func append(_ row: UnsafePointer<Float>) -> Bool {
    if (rows + 1) * rowBytes > buffer.count {
      let larger = UnsafeMutableRawBufferPointer.allocate(
        byteCount: buffer.count * 2, alignment: 64)
      larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[..<(rows * rowBytes)]))
      buffer.deallocate()
      buffer = larger
    }
    guard let start = buffer.baseAddress else { return false }
    let to = start + rows * rowBytes
    rows += 1
    if type == .float16 { return gk_float16_from_float32(row, to, dModel) == dModel }
    to.copyMemory(from: row, byteCount: rowBytes)
    return (0..<dModel).allSatisfy { row[$0].isFinite }
  }

  /// Writes the shard, which is then there whole or not at all.
  ///
  /// - Throws: `FileError` with the system's reason, such as a full disk.
  func write(
    tokenIDs: [Int32], sequenceStarts: [Int64], metadata: [String: String], folder: String,
    name: String
  ) throws(FileError) {
    precondition(tokenIDs.count == rows)
    let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<(rows * rowBytes)])
    try tokenIDs.withBytes { (tokenIDs) throws(FileError) in
      try sequenceStarts.withBytes { (starts) throws(FileError) in
        try SafetensorsWriter.write(
          [
            .init("activations", type, [rows, dModel], bytes),
            .init("token_ids", .int32, [rows], tokenIDs),
            .init("sequence_starts", .int64, [sequenceStarts.count], starts),
          ], metadata: metadata, to: "\(folder)/\(name)")
      }
    }
    try DurableFile.flushFolder(folder)
  }
}
