/// A JSON value. Objects keep the order in which their keys were written.
public indirect enum JSONValue: Sendable, Equatable {
  /// `{…}`, as key and value in order; the parser refuses duplicate keys.
  case object([Member])
  /// `[…]`
  case array([JSONValue])
  /// `"…"`
  case string(String)
  /// A number written without fraction or exponent, within 64 bits.
  case integer(Int64)
  /// Any other number.
  case real(Double)
  /// `true` or `false`
  case bool(Bool)
  /// `null`
  case null

  /// One key of an object with its value.
  public struct Member: Sendable, Equatable {
    /// The key, unique within its object.
    public let key: String
    /// The value.
    public let value: JSONValue

    /// A key with its value.
    public init(_ key: String, _ value: JSONValue) {
      self.key = key
      self.value = value
    }
  }

  /// The value of `key`, or nil if this is not an object or has no such key.
  public subscript(key: String) -> JSONValue? {
    guard case .object(let members) = self else { return nil }
    return members.first { $0.key == key }?.value
  }

  /// The members of an object, else nil.
  public var members: [Member]? {
    guard case .object(let members) = self else { return nil }
    return members
  }

  /// The elements of an array, else nil.
  public var elements: [JSONValue]? {
    guard case .array(let elements) = self else { return nil }
    return elements
  }

  /// The text of a string, else nil.
  public var string: String? {
    guard case .string(let text) = self else { return nil }
    return text
  }

  /// An integer that was written as one (`4`, never `4.0` or `4e0`), else nil.
  public var integer: Int? {
    guard case .integer(let value) = self else { return nil }
    return Int(value)
  }

  /// Any number, else nil.
  public var number: Double? {
    switch self {
    case .integer(let value): return Double(value)
    case .real(let value): return value
    default: return nil
    }
  }

  /// A truth value, else nil.
  public var bool: Bool? {
    guard case .bool(let value) = self else { return nil }
    return value
  }

  /// What kind of value this is, for error messages.
  public var kind: String {
    switch self {
    case .object: "an object"
    case .array: "an array"
    case .string: "a string"
    case .integer: "an integer"
    case .real: "a number"
    case .bool: "a truth value"
    case .null: "null"
    }
  }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral,
  ExpressibleByFloatLiteral, ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral,
  ExpressibleByDictionaryLiteral
{
  /// A literal.
  public init(stringLiteral value: String) { self = .string(value) }
  /// A literal.
  public init(integerLiteral value: Int64) { self = .integer(value) }
  /// A literal.
  public init(floatLiteral value: Double) { self = .real(value) }
  /// A literal.
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  /// A literal.
  public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
  /// A literal.
  public init(dictionaryLiteral elements: (String, JSONValue)...) {
    self = .object(elements.map { Member($0.0, $0.1) })
  }

  /// An integer.
  public init(_ value: Int) { self = .integer(Int64(value)) }
  /// A number that is not finite has no JSON form and becomes null.
  public init(_ value: Double) { self = value.isFinite ? .real(value) : .null }
}
