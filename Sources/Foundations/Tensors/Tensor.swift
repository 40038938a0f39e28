internal import CGranuleKernels
public import GranuleFiles

/// A shaped view of a file's bytes: row-major, little-endian, any alignment.
public struct Tensor: Sendable {
  /// The type of every element.
  public let type: ElementType
  /// Elements along each dimension; empty for a scalar.
  public let shape: [Int]
  /// The tensor's name in its file, or "" if the file holds just one.
  public let name: String
  /// The file that keeps the bytes alive.
  public let file: FileBytes
  let byteRange: Range<Int>

  /// A view of `byteRange` of `file`, whose length must be what shape and type say.
  package init(
    name: String, type: ElementType, shape: [Int], file: FileBytes, byteRange: Range<Int>
  ) {
    precondition(byteRange.count == shape.reduce(type.byteCount, *))
    self.name = name
    self.type = type
    self.shape = shape
    self.file = file
    self.byteRange = byteRange
  }

  /// Number of elements.
  public var count: Int { byteRange.count / type.byteCount }
  /// The elements' bytes, valid while `file` lives.
  public var bytes: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: file.bytes[byteRange])
  }

  /// All elements as float32, row-major: float16 and bfloat16 exactly, float64 rounded to nearest.
  ///
  /// - Throws: `FileError` if the elements are not floating-point numbers.
  public func float32() throws(FileError) -> FloatStorage {
    let result = FloatStorage(count: count)
    try copyFloat32(elements: 0..<count, into: result.pointer)
    return result
  }

  /// The elements `elements` (row-major positions) as float32, as `float32()` converts them.
  ///
  /// - Throws: `FileError` if the elements are not floating-point numbers.
  public func copyFloat32(
    elements: Range<Int>, into output: UnsafeMutablePointer<Float>
  ) throws(FileError) {
    let size = type.byteCount
    let source = UnsafeRawBufferPointer(
      rebasing: bytes[elements.lowerBound * size..<elements.upperBound * size])
    guard convertToFloat32(source, type: type, into: output) else {
      throw fault("has element type \(type.safetensorsName), a floating-point type is needed")
    }
  }

  /// All elements of an integer type.
  ///
  /// - Throws: `FileError` if the elements are not integers or one does not fit `Int`.
  public func integers() throws(FileError) -> [Int] {
    switch type {
    case .int64: return load(Int64.self).map(Int.init)
    case .int32: return load(Int32.self).map(Int.init)
    case .int16: return load(Int16.self).map(Int.init)
    case .int8: return load(Int8.self).map(Int.init)
    case .uint32: return load(UInt32.self).map(Int.init)
    case .uint16: return load(UInt16.self).map(Int.init)
    case .uint8: return load(UInt8.self).map(Int.init)
    case .uint64:
      let values = load(UInt64.self).compactMap(Int.init(exactly:))
      guard values.count == count else { throw fault("has an element beyond 63 bits") }
      return values
    case .float64, .float32, .float16, .bfloat16, .bool:
      throw fault("has element type \(type.safetensorsName), an integer type is needed")
    }
  }

  /// An error that names this tensor and its file.
  public func fault(_ fault: String) -> FileError {
    FileError(file: file.path, tensor: name.isEmpty ? nil : name, fault: fault)
  }

  private func load<T: BitwiseCopyable>(_: T.Type) -> [T] {
    let bytes = bytes
    return (0..<count).map {
      bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: T.self)
    }
  }
}

/// Converts little-endian floating-point elements to float32, rounding float64 to nearest.
///
/// - Parameters:
///   - source: whole elements, any alignment.
///   - output: room for `source.count / type.byteCount` values.
/// - Returns: false, having written nothing, if `type` is not a floating-point type.
public func convertToFloat32(
  _ source: UnsafeRawBufferPointer, type: ElementType, into output: UnsafeMutablePointer<Float>
) -> Bool {
  let count = source.count / type.byteCount
  guard let start = source.baseAddress, count > 0 else { return type.isFloatingPoint }
  switch type {
  case .float32:
    UnsafeMutableRawPointer(output).copyMemory(from: start, byteCount: source.count)
  case .float16: gk_float32_from_float16(start, output, count)
  case .bfloat16: gk_float32_from_bfloat16(start, output, count)
  case .float64:
    for index in 0..<count {
      output[index] = Float(source.loadUnaligned(fromByteOffset: index * 8, as: Double.self))
    }
  default: return false
  }
  return true
}

extension ElementType {
  /// Whether elements are floating-point numbers, of any width.
  public var isFloatingPoint: Bool {
    switch self {
    case .float64, .float32, .float16, .bfloat16: true
    default: false
    }
  }
}
