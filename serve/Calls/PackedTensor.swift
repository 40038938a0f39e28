/// How the elements of a `PackedTensor` are stored.
public enum DataType: UInt32, Sendable {
  /// IEEE 754 single precision.
  case float32 = 1
  /// IEEE 754 half precision.
  case float16 = 2
  /// The upper half of a single-precision number.
  case bfloat16 = 3

  /// Bytes of an element.
  public var byteCount: Int { self == .float32 ? 4 : 2 }
}

/// A tensor as bytes that nobody has checked yet: little-endian, row-major, not necessarily aligned.
public struct PackedTensor: Sendable {
  /// The elements' type.
  public var type: DataType
  /// The extents, outermost first.
  public var shape: [UInt32]
  /// The elements.
  public var data: SharedBytes

  /// A tensor as it is; `rowsAndColumns(named:)` checks it.
  public init(type: DataType, shape: [UInt32], data: SharedBytes) {
    self.type = type
    self.shape = shape
    self.data = data
  }

  /// Rows and columns of a matrix whose data has exactly the size of its shape; `field` is the name to
  /// use in an error.
  ///
  /// - Throws: `ServerError` (INVALID_ARGUMENT) if it is not a matrix or its data has a different size.
  public func rowsAndColumns(named field: String) throws(ServerError) -> (rows: Int, columns: Int) {
    guard shape.count == 2 else {
      throw ServerError(
        .invalidArgument,
        "\(field).shape: has \(shape.count) dimensions; it must have 2, [tokens, d_model]")
    }
    let (rows, columns) = (Int(shape[0]), Int(shape[1]))
    guard columns > 0 else {
      throw ServerError(.invalidArgument, "\(field).shape: d_model is 0; it must be at least 1")
    }
    // Two factors below 2^32 and one of at most 4 can pass 2^63.
    let elements = rows.multipliedReportingOverflow(by: columns)
    let bytes = elements.partialValue.multipliedReportingOverflow(by: type.byteCount)
    guard !elements.overflow, !bytes.overflow, bytes.partialValue == data.count else {
      let wanted =
        elements.overflow || bytes.overflow ? "more than 2^63" : String(bytes.partialValue)
      throw ServerError(
        .invalidArgument,
        "\(field).data: has \(data.count) bytes; shape [\(rows), \(columns)] of \(type) takes \(wanted)"
      )
    }
    return (rows, columns)
  }
}
