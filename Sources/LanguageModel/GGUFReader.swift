internal import GranuleFiles
internal import GranuleTensors

/// Reads a GGUF file's little-endian fields one after the other, and never beyond its end.
struct GGUFReader {
  /// How deeply arrays may be nested: no file of the field nests them at all.
  static let nestingMax = 4
  /// The longest key or tensor name in bytes: the format's own limit.
  static let nameBytesMax = 65_535

  let file: FileBytes
  private(set) var offset: Int
  /// What is being read, for messages.
  var place = "the header"

  init(_ file: FileBytes, at offset: Int = 0) {
    self.file = file
    self.offset = offset
  }

  private var left: Int { file.bytes.count - offset }

  /// An error at the place that is being read.
  func fault(_ text: String) -> FileError {
    FileError(file: file.path, fault: "\(place): \(text)")
  }

  /// The next integer.
  mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(
    _: T.Type
  ) throws(FileError) -> T {
    let size = MemoryLayout<T>.size
    try require(size, "a number of \(size) bytes")
    defer { offset += size }
    return T(littleEndian: file.bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// The next 64-bit count of things that take `bytesEach` bytes at least, as many as can be there.
  mutating func count(of what: String, bytesEach: Int) throws(FileError) -> Int {
    let claimed = try integer(UInt64.self)
    guard claimed <= UInt64(left / bytesEach) else {
      throw fault(
        "claims \(claimed) \(what), but only \(left) bytes of the file are left for them")
    }
    return Int(claimed)
  }

  /// The next text: a 64-bit length and UTF-8.
  mutating func string() throws(FileError) -> String {
    let bytes = try stringBytes()
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw fault("a text is not valid UTF-8")
    }
    return text
  }

  /// The next key or name of a tensor.
  mutating func name() throws(FileError) -> String {
    let start = offset
    let name = try string()
    guard (1...Self.nameBytesMax).contains(name.utf8.count) else {
      throw fault(
        "the name at byte \(start) has \(name.utf8.count) bytes, 1 to \(Self.nameBytesMax) are "
          + "allowed")
    }
    return name
  }

  /// The next number that stands for a type of metadata.
  mutating func valueType() throws(FileError) -> GGUFValueType {
    let number = try integer(UInt32.self)
    guard let type = GGUFValueType(rawValue: number) else {
      throw fault("has the unknown value type \(number)")
    }
    return type
  }

  /// The next value of a type; an array is checked and skipped, to be decoded on demand.
  mutating func value(
    _ type: GGUFValueType, key: String, depth: Int = 0
  ) throws(FileError) -> GGUFValue {
    switch type {
    case .uint8: return .unsigned(UInt64(try integer(UInt8.self)))
    case .uint16: return .unsigned(UInt64(try integer(UInt16.self)))
    case .uint32: return .unsigned(UInt64(try integer(UInt32.self)))
    case .uint64: return .unsigned(try integer(UInt64.self))
    case .int8: return .signed(Int64(try integer(Int8.self)))
    case .int16: return .signed(Int64(try integer(Int16.self)))
    case .int32: return .signed(Int64(try integer(Int32.self)))
    case .int64: return .signed(try integer(Int64.self))
    case .float32: return .real(Double(Float(bitPattern: try integer(UInt32.self))))
    case .float64: return .real(Double(bitPattern: try integer(UInt64.self)))
    case .bool:
      let byte = try integer(UInt8.self)
      guard byte <= 1 else { throw fault("a truth value is \(byte), neither 0 nor 1") }
      return .bool(byte == 1)
    case .string: return .string(try string())
    case .array:
      guard depth < Self.nestingMax else {
        throw fault("arrays are nested more than \(Self.nestingMax) deep")
      }
      let elementType = try valueType()
      // A text has at least its length, an array its type and count.
      let least = elementType.byteCount ?? (elementType == .string ? 8 : 12)
      let count = try count(of: "elements", bytesEach: least)
      let array = GGUFArray(
        count: count, elementType: elementType, key: key, file: file, start: offset)
      if let size = elementType.byteCount {
        offset += count * size
      } else if elementType == .string {
        for _ in 0..<count { _ = try stringBytes() }
      } else {
        for _ in 0..<count { _ = try value(.array, key: key, depth: depth + 1) }
      }
      return .array(array)
    }
  }

  private mutating func stringBytes() throws(FileError) -> UnsafeRawBufferPointer {
    let length = try count(of: "bytes of text", bytesEach: 1)
    defer { offset += length }
    return UnsafeRawBufferPointer(rebasing: file.bytes[offset..<offset + length])
  }

  private func require(_ byteCount: Int, _ what: String) throws(FileError) {
    guard left >= byteCount else {
      throw fault("the file ends at byte \(file.bytes.count), where \(what) is needed")
    }
  }
}
