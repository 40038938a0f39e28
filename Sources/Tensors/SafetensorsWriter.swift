internal import StrictJSON

/// Writes safetensors files that every reader of the format reads.
public enum SafetensorsWriter {
  /// One tensor to write: its elements' bytes, little-endian, row-major.
  public struct Entry {
    let name: String
    let type: ElementType
    let shape: [Int]
    let bytes: UnsafeRawBufferPointer
    private let owner: FloatStorage?

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
      self.bytes = bytes
      owner = nil
    }

    /// A float32 tensor, which the entry keeps alive.
    public init(_ name: String, _ shape: [Int], _ values: FloatStorage) {
      precondition(values.count == shape.reduce(1, *), "\(name) \(shape)")
      self.name = name
      type = .float32
      self.shape = shape
      bytes = UnsafeRawBufferPointer(values.values)
      owner = values
    }
  }

  /// Writes `entries` to a new file at `path`, replacing any, and flushes it to the disk.
  ///
  /// - Throws: `TensorFileError` with the system's reason (disk full, no permission); then no file
  ///   is left.
  public static func write(
    _ entries: [Entry], metadata: [String: String] = [:], to path: String
  ) throws(TensorFileError) {
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
      let end = offset + entry.bytes.count
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
    let chunks = ordered.map(\.bytes)
    defer { withExtendedLifetime(entries) {} }
    try prefix.withBytes { (prefix) throws(TensorFileError) in
      try DurableFile.write([prefix] + chunks, to: path)
    }
  }
}
