import GranuleFiles
public import GranuleTensors
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

  /// The codes.
  public var codes = SparseCodes()
  /// The dictionary that made the codes; nil if the file does not name it.
  public var maker: Maker?

  /// Codes of no tokens.
  public init() {}

  /// Reads a file and checks its codes.
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
    let (rowOffsets, indices) = (try words("row_offsets"), try words("indices"))
    let values = try file.tensor("values")
    guard values.shape.count == 1 else { throw values.fault("is not a list of numbers") }
    let numbers = try values.float32().array
    do throws(CodesError) {
      codes = try SparseCodes(rowOffsets: rowOffsets, indices: indices, values: numbers)
    } catch {
      throw FileError(file: path, fault: "\(error)")
    }
    let metadata = file.metadata
    if let model = metadata["model"], let version = metadata["version"].flatMap({ UInt64($0) }),
      let sha256 = metadata["sha256"]
    {
      maker = Maker(model: model, version: version, sha256: sha256)
    }
  }

  /// Appends the tokens of a response.
  ///
  /// - Throws: `ServerError` if its codes are not sound, or there would be more than 2^32 values.
  public mutating func append(_ part: PackedCodes) throws {
    guard codes.indices.count + part.indices.count / 4 <= Int(UInt32.max) else {
      throw ServerError(.resourceExhausted, "codes: more than 2^32 active latents; encode less")
    }
    codes.append(try part.sparseCodes())
  }

  /// The codes of some tokens, as a request carries them.
  public func packed(tokens: Range<Int>) -> PackedCodes {
    PackedCodes(joining: [codes.tokens(tokens)])
  }

  /// Writes the codes.
  ///
  /// - Throws: `FileError` with the system's reason.
  public func write(to path: String) throws {
    let metadata =
      maker.map { ["model": $0.model, "version": String($0.version), "sha256": $0.sha256] } ?? [:]
    try codes.rowOffsets.withUnsafeBytes { rowOffsets in
      try codes.indices.withUnsafeBytes { indices in
        try codes.values.withUnsafeBytes { values in
          try SafetensorsWriter.write(
            [
              .init("row_offsets", .uint32, [codes.tokens + 1], rowOffsets),
              .init("indices", .uint32, [codes.indices.count], indices),
              .init("values", .float32, [codes.indices.count], values),
            ], metadata: metadata, to: path)
        }
      }
    }
  }
}
