public import GranuleFiles

/// Writes safetensors files that every reader of the format reads.
public enum SafetensorsWriter {
  /// One tensor to write: its elements' bytes, little-endian, row-major.
  public struct Entry {
    let name: String
    let type: ElementType
    let shape: [Int]
    fileprivate let content: Content
    var byteCount: Int { shape.reduce(type.byteCount, *) }

    fileprivate enum Content {
      case bytes(UnsafeRawBufferPointer)
      case values(FloatStorage)
      /// The transpose of a row-major matrix, [shape[1], shape[0]].
      case transposed(FloatStorage)
    }

    /// An entry whose bytes the caller keeps alive until it is written.
    ///
    /// - Precondition: `bytes` holds exactly what shape and type say.
    public init(
      _ name: String, _ type: ElementType, _ shape: [Int], _ bytes: UnsafeRawBufferPointer
    ) {
      precondition(bytes.count == shape.reduce(type.byteCount, *), "\(name) \(shape)")
      self.name = name
      self.type = type
      self.shape = shape
      content = .bytes(bytes)
    }

    /// A float32 tensor, which the entry keeps alive.
    public init(_ name: String, _ shape: [Int], _ values: FloatStorage) {
      precondition(values.count == shape.reduce(1, *), "\(name) \(shape)")
      self.name = name
      type = .float32
      self.shape = shape
      content = .values(values)
    }

    /// The transpose of a float32 matrix, which the entry keeps alive; it is made piece by piece as
    /// it is written.
    ///
    /// - Parameter shape: the shape of the transpose; `matrix` is row-major, [shape[1], shape[0]].
    public init(_ name: String, _ shape: [Int], transposing matrix: FloatStorage) {
      precondition(shape.count == 2 && matrix.count == shape.reduce(1, *), "\(name) \(shape)")
      self.name = name
      type = .float32
      self.shape = shape
      content = .transposed(matrix)
    }
  }

  /// Writes `entries` to a file, flushes it to the disk and puts it at `path`, replacing any.
  ///
  /// - Throws: `FileError` with the system's reason (disk full, no permission), or if
  ///   `progress` ends it; then the file that was at `path` stays.
  public static func write(
    _ entries: [Entry], metadata: [String: String] = [:], to path: String,
    progress: TransferProgress? = nil
  ) throws(FileError) {
    var members: [JSONValue.Member] = []
    if !metadata.isEmpty {
      let sorted = metadata.sorted { $0.key < $1.key }
      members.append(
        .init("__metadata__", .object(sorted.map { .init($0.key, .string($0.value)) })))
    }
    // Wider types first, as the reference writer does, so that every tensor is aligned.
    let ordered = entries.enumerated().sorted {
      ($1.element.type.byteCount, $0.offset) < ($0.element.type.byteCount, $1.offset)
    }.map(\.element)
    var offset = 0
    for entry in ordered {
      let end = offset + entry.byteCount
      members.append(
        .init(
          entry.name,
          [
            "dtype": .string(entry.type.safetensorsName),
            "shape": .array(entry.shape.map { JSONValue($0) }),
            "data_offsets": [JSONValue(offset), JSONValue(end)],
          ]))
      offset = end
    }
    var header = Array(StrictJSON.text(.object(members)).utf8)
    while header.count % 8 != 0 { header.append(UInt8(ascii: " ")) }
    var prefix = withUnsafeBytes(of: UInt64(header.count).littleEndian) { Array($0) }
    prefix += header
    try DurableFile.write(to: path) { (writeChunk) throws(FileError) in
      try prefix.withBytes(writeChunk)
      for entry in ordered {
        switch entry.content {
        case .bytes(let bytes): try write(bytes)
        case .values(let values): try write(UnsafeRawBufferPointer(values.values))
        case .transposed(let matrix): try writeTransposed(matrix, shape: entry.shape)
        }
      }

      func write(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        for start in stride(from: 0, to: bytes.count, by: pieceBytes) {
          let end = min(start + pieceBytes, bytes.count)
          try writeChunk(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
          try progress?.advance(end - start, of: path)
        }
      }

      func writeTransposed(_ matrix: FloatStorage, shape: [Int]) throws(FileError) {
        let (rows, columns) = (shape[0], shape[1])
        guard matrix.count > 0 else { return }
        let height = max(1, pieceBytes / (4 * columns))
        let scratch = FloatStorage(uninitializedCount: min(height, rows) * columns)
        for row in stride(from: 0, to: rows, by: height) {
          let count = min(height, rows - row)
          transpose(
            matrix.pointer + row, rows: columns, rowStride: rows, columns: count,
            into: scratch.pointer, rowStride: columns)
          try writeChunk(UnsafeRawBufferPointer(start: scratch.pointer, count: 4 * count * columns))
          try progress?.advance(4 * count * columns, of: path)
        }
      }
    }
  }

  private static let pieceBytes = 8 << 20
}
