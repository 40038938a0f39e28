import GranuleFiles
import GranuleTensors
public import GranuleWire

/// Sparse codes in a safetensors file: `row_offsets`, `indices` and `values`; the metadata name the
/// dictionary that made them.
public struct CodesFile: Sendable {
  /// The dictionary that made codes; no other can decode them.
  public struct Maker: Sendable {
    /// Name of the model.
    public var model: String
    /// Number of the version.
    public var version: UInt64
    /// Digest of the dictionary's files, in hexadecimal.
    public var sha256: String

    /// A dictionary that is known.
    public init(model: String, version: UInt64, sha256: String) {
      self.model = model
      self.version = version
      self.sha256 = sha256
    }
  }

  /// Where each row starts, and the end of the last: [tokens + 1].
  public var rowOffsets: [UInt32] = [0]
  /// The active latents: [active].
  public var indices: [UInt32] = []
  /// Their activations: [active].
  public var values: [Float] = []
  /// The dictionary that made the codes; nil if the file does not name it.
  public var maker: Maker?

  /// Codes of no tokens.
  public init() {}

  /// Reads a file and checks its sizes; the server that decodes the codes checks their values.
  ///
  /// - Throws: `FileError` that names the file and the fault.
  public init(path: String) throws {
    let file = try SafetensorsFile(try FileBytes.map(path))
    func words(_ name: String) throws -> [UInt32] {
      let tensor = try file.tensor(name)
      guard [.uint32, .int32].contains(tensor.type), tensor.shape.count == 1 else {
        throw tensor.fault("is not a list of 32-bit integers")
      }
      return try tensor.integers().map {
        guard let word = UInt32(exactly: $0) else { throw tensor.fault("holds \($0)") }
        return word
      }
    }
    rowOffsets = try words("row_offsets")
    indices = try words("indices")
    let values = try file.tensor("values")
    guard values.shape.count == 1 else { throw values.fault("is not a list of numbers") }
    self.values = try values.float32().array
    guard let last = rowOffsets.last, rowOffsets.first == 0, Int(last) == indices.count,
      indices.count == self.values.count, zip(rowOffsets, rowOffsets.dropFirst()).allSatisfy(<=)
    else { throw values.fault("does not make compressed sparse rows with row_offsets and indices") }
    let metadata = file.metadata
    if let model = metadata["model"], let version = metadata["version"].flatMap({ UInt64($0) }),
      let sha256 = metadata["sha256"]
    {
      maker = Maker(model: model, version: version, sha256: sha256)
    }
  }

  /// Appends the rows of a response.
  ///
  /// - Throws: `ServerError` if they are not valid rows, or there would be more than 2^32 values.
  public mutating func append(_ part: PackedCodes) throws {
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

  /// A range of the rows, as a request carries them.
  public func packed(rows: Range<Int>) -> PackedCodes {
    let (start, end) = (Int(rowOffsets[rows.lowerBound]), Int(rowOffsets[rows.upperBound]))
    return PackedCodes(
      rowOffsets: rowOffsets[rows.lowerBound...rows.upperBound].map { $0 - UInt32(start) },
      indices: Array(indices[start..<end]), values: Array(values[start..<end]))
  }

  /// Writes the codes.
  ///
  /// - Throws: `FileError` with the system's reason.
  public func write(to path: String) throws {
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
