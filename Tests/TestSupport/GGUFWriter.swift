/// Builds GGUF files, sound ones and, by what it is told, unsound ones.
public struct GGUFWriter {
  /// A value of the metadata, by its type in the file.
  public indirect enum Value {
    /// One value each of the types of the format.
    case uint8(UInt8), int8(Int8), uint16(UInt16), int16(Int16), uint32(UInt32), int32(Int32)
    /// One value each of the types of the format.
    case uint64(UInt64), int64(Int64), float32(Float), float64(Double), bool(Bool), string(String)
    /// An array with the type number of its elements.
    case array(UInt32, [Value])

    /// An array of texts.
    public static func strings(_ texts: [String]) -> Value { .array(8, texts.map { .string($0) }) }

    var typeNumber: UInt32 {
      switch self {
      case .uint8: 0
      case .int8: 1
      case .uint16: 2
      case .int16: 3
      case .uint32: 4
      case .int32: 5
      case .float32: 6
      case .bool: 7
      case .string: 8
      case .array: 9
      case .uint64: 10
      case .int64: 11
      case .float64: 12
      }
    }

    func append(to bytes: inout [UInt8]) {
      switch self {
      case .uint8(let value): bytes.appendInteger(value)
      case .int8(let value): bytes.appendInteger(value)
      case .uint16(let value): bytes.appendInteger(value)
      case .int16(let value): bytes.appendInteger(value)
      case .uint32(let value): bytes.appendInteger(value)
      case .int32(let value): bytes.appendInteger(value)
      case .uint64(let value): bytes.appendInteger(value)
      case .int64(let value): bytes.appendInteger(value)
      case .float32(let value): bytes.appendInteger(value.bitPattern)
      case .float64(let value): bytes.appendInteger(value.bitPattern)
      case .bool(let value): bytes.append(value ? 1 : 0)
      case .string(let text): bytes.appendString(text)
      case .array(let type, let values):
        bytes.appendInteger(type)
        bytes.appendInteger(UInt64(values.count))
        for value in values { value.append(to: &bytes) }
      }
    }
  }

  /// A tensor to write.
  public struct Tensor {
    /// Its name.
    public var name: String
    /// Outermost dimension first.
    public var shape: [Int]
    /// The number that stands for its element type; 0 is float32.
    public var type: UInt32
    /// Its stored elements.
    public var bytes: [UInt8]
    /// Its offset in the data, where it is not to follow the tensor before it.
    public var offset: UInt64?

    /// A tensor of any type.
    public init(
      _ name: String, _ shape: [Int], type: UInt32, bytes: [UInt8], offset: UInt64? = nil
    ) {
      self.name = name
      self.shape = shape
      self.type = type
      self.bytes = bytes
      self.offset = offset
    }

    /// A float32 tensor.
    public init(_ name: String, _ shape: [Int], _ values: [Float]) {
      var bytes: [UInt8] = []
      for value in values { bytes.appendInteger(value.bitPattern) }
      self.init(name, shape, type: 0, bytes: bytes)
    }
  }

  /// Keys and values in the order in which they are written.
  public var metadata: [(key: String, value: Value)]
  /// Tensors in the order in which they are written.
  public var tensors: [Tensor]
  /// The format's version.
  public var version: UInt32 = 3
  /// What tensors' offsets are multiples of; state another than 32 in the metadata too.
  public var alignment = 32

  /// A file of these.
  public init(_ metadata: [(key: String, value: Value)] = [], _ tensors: [Tensor] = []) {
    self.metadata = metadata
    self.tensors = tensors
  }

  /// Sets the value of a key, in place or at the end.
  public mutating func set(_ key: String, _ value: Value) {
    if let index = metadata.firstIndex(where: { $0.key == key }) {
      metadata[index].value = value
    } else {
      metadata.append((key, value))
    }
  }

  /// The whole file.
  public func bytes() -> [UInt8] {
    var bytes = Array("GGUF".utf8)
    bytes.appendInteger(version)
    bytes.appendInteger(UInt64(tensors.count))
    bytes.appendInteger(UInt64(metadata.count))
    for (key, value) in metadata {
      bytes.appendString(key)
      bytes.appendInteger(value.typeNumber)
      value.append(to: &bytes)
    }
    var data: [UInt8] = []
    for tensor in tensors {
      while data.count % alignment != 0 { data.append(0) }
      bytes.appendString(tensor.name)
      bytes.appendInteger(UInt32(tensor.shape.count))
      for length in tensor.shape.reversed() { bytes.appendInteger(Int64(length)) }
      bytes.appendInteger(tensor.type)
      bytes.appendInteger(tensor.offset ?? UInt64(data.count))
      data += tensor.bytes
    }
    while bytes.count % alignment != 0 { bytes.append(0) }
    return bytes + data
  }
}

extension [UInt8] {
  fileprivate mutating func appendInteger(_ value: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
  }

  fileprivate mutating func appendString(_ text: String) {
    appendInteger(UInt64(text.utf8.count))
    append(contentsOf: text.utf8)
  }
}
