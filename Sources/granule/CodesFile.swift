import GranuleFiles
import GranuleTensors
import GranuleWire

/// Sparse codes in a safetensors file: `row_offsets`, `indices` and `values`, with the dictionary that
/// made them in the metadata.
struct CodesFile {
  /// The dictionary that made codes, which alone can decode them.
  struct Maker {
    var model: String
    var version: UInt64
    /// Of the dictionary's files, in hexadecimal.
    var sha256: String
  }

  /// [tokens + 1]
  var rowOffsets: [UInt32] = [0]
  /// [active]
  var indices: [UInt32] = []
  /// [active]
  var values: [Float] = []
  /// nil where the file does not say.
  var maker: Maker?

  /// No tokens.
  init() {}

  /// Reads a file; the server checks what the arrays hold.
  ///
  /// - Throws: `FileError` that names the file and the fault.
  init(path: String) throws {
    let file = try SafetensorsFile(try FileBytes.map(path))
    func words(_ name: String) throws -> [UInt32] {
      let tensor = try file.tensor(name)
      guard [.uint32, .int32].contains(tensor.type), tensor.shape.count == 1 else {
        throw tensor.fault("is no list of 32-bit integers")
      }
      return try tensor.integers().map {
        guard let word = UInt32(exactly: $0) else { throw tensor.fault("holds \($0)") }
        return word
      }
    }
    rowOffsets = try words("row_offsets")
    indices = try words("indices")
    let values = try file.tensor("values")
    guard values.shape.count == 1 else { throw values.fault("is no list of numbers") }
    self.values = try values.float32().array
    guard let last = rowOffsets.last, rowOffsets.first == 0, Int(last) == indices.count,
      indices.count == self.values.count, zip(rowOffsets, rowOffsets.dropFirst()).allSatisfy(<=)
    else { throw values.fault("and row_offsets and indices are no compressed sparse rows") }
    let metadata = file.metadata
    if let model = metadata["model"], let version = metadata["version"].flatMap({ UInt64($0) }),
      let sha256 = metadata["sha256"]
    {
      maker = Maker(model: model, version: version, sha256: sha256)
    }
  }

  /// Adds the rows of a response.
  mutating func append(_ part: PackedCodes) throws {
    _ = try part.tokens()
    try part.checkRows(latents: Int(UInt32.max))
    let base = UInt32(indices.count)
    guard part.indices.count / 4 <= Int(UInt32.max - base) else {
      throw ServerError(.resourceExhausted, "codes: more than 2^32 active latents; encode less")
    }
    rowOffsets += part.rowOffsets.array(of: UInt32.self).dropFirst().map { base + $0 }
    indices += part.indices.array(of: UInt32.self)
    values += part.values.array(of: Float.self)
  }

  /// Some of the rows, as they go over the wire.
  func packed(rows: Range<Int>) -> PackedCodes {
    let (start, end) = (Int(rowOffsets[rows.lowerBound]), Int(rowOffsets[rows.upperBound]))
    return PackedCodes(
      rowOffsets: rowOffsets[rows.lowerBound...rows.upperBound].map { $0 - UInt32(start) },
      indices: Array(indices[start..<end]), values: Array(values[start..<end]))
  }

  /// Writes the codes.
  ///
  /// - Throws: `FileError` with the system's reason.
  func write(to path: String) throws {
    let metadata =
      maker.map { ["model": $0.model, "version": String($0.version), "sha256": $0.sha256] } ?? [:]
    try rowOffsets.withUnsafeBytes { rowOffsets in
      try indices.withUnsafeBytes { indices in
        try values.withUnsafeBytes { values in
          try SafetensorsWriter.write(
            [
              .init("row_offsets", .uint32, [self.rowOffsets.count], rowOffsets),
              .init("indices", .uint32, [self.indices.count], indices),
              .init("values", .float32, [self.values.count], values),
            ], metadata: metadata, to: path)
        }
      }
    }
  }
}
