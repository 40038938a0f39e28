public import GranuleFiles
internal import GranuleTensors

/// The types of GGUF's metadata, by the number that stands for each in the file.
enum GGUFValueType: UInt32 {
  case uint8 = 0
  case int8, uint16, int16, uint32, int32, float32, bool, string, array, uint64, int64, float64

  /// Bytes of a value, nil if they depend on it.
  var byteCount: Int? {
    switch self {
    case .uint8, .int8, .bool: 1
    case .uint16, .int16: 2
    case .uint32, .int32, .float32: 4
    case .uint64, .int64, .float64: 8
    case .string, .array: nil
    }
  }
}

/// A value of a GGUF file's metadata.
public enum GGUFValue: Sendable {
  /// An unsigned integer of any width.
  case unsigned(UInt64)
  /// A signed integer of any width.
  case signed(Int64)
  /// A floating-point number of either width.
  case real(Double)
  /// A truth value.
  case bool(Bool)
  /// A text.
  case string(String)
  /// Values of one type.
  case array(GGUFArray)

  /// An integer of any type that fits, else nil.
  public var integer: Int? {
    switch self {
    case .unsigned(let value): Int(exactly: value)
    case .signed(let value): Int(exactly: value)
    default: nil
    }
  }

  /// A floating-point number or an integer, else nil.
  public var number: Double? {
    switch self {
    case .unsigned(let value): Double(value)
    case .signed(let value): Double(value)
    case .real(let value): value
    default: nil
    }
  }

  /// A text, else nil.
  public var string: String? {
    guard case .string(let text) = self else { return nil }
    return text
  }

  /// A truth value, else nil.
  public var bool: Bool? {
    guard case .bool(let value) = self else { return nil }
    return value
  }

  /// An array, else nil.
  public var array: GGUFArray? {
    guard case .array(let array) = self else { return nil }
    return array
  }
}

/// An array of a GGUF file's metadata, decoded when it is asked for: the file's lengths have all
/// been checked, but what a few bytes claim to hold is not made in memory before someone needs it.
public struct GGUFArray: Sendable {
  /// Number of elements.
  public let count: Int
  let elementType: GGUFValueType
  let key: String
  let file: FileBytes
  /// Where the first element begins.
  let start: Int

  /// All elements.
  ///
  /// - Throws: `FileError` if a text is not valid UTF-8 or a truth value neither 0 nor 1.
  public func values() throws(FileError) -> [GGUFValue] {
    var reader = GGUFReader(file, at: start)
    reader.place = "key \(key)"
    var values: [GGUFValue] = []
    for _ in 0..<count { values.append(try reader.value(elementType, key: key)) }
    return values
  }

  /// All elements of an array of texts, nil if it is none.
  ///
  /// - Throws: `FileError` if one is not valid UTF-8.
  public func strings() throws(FileError) -> [String]? {
    guard elementType == .string else { return nil }
    var reader = GGUFReader(file, at: start)
    reader.place = "key \(key)"
    var strings: [String] = []
    strings.reserveCapacity(count)
    for _ in 0..<count { strings.append(try reader.string()) }
    return strings
  }

  /// All elements of an array of integers, nil if it is none or one does not fit.
  ///
  /// - Throws: never for an array that was read from a file.
  public func integers() throws(FileError) -> [Int]? {
    guard elementType.byteCount != nil else { return nil }
    var integers: [Int] = []
    for value in try values() {
      guard let integer = value.integer else { return nil }
      integers.append(integer)
    }
    return integers
  }
}
