/// A value in a JSON file, with its place there: what it lacks is told with the file, the path of keys,
/// what was found and what is needed.
public struct JSONReader: Sendable {
  /// The value.
  public let value: JSONValue
  /// The file's path, for messages.
  public let file: String
  /// The tensor that the value describes, for messages; nil if it describes none.
  public let tensor: String?
  /// The keys that lead to the value, such as `metadata.granularities[2].k`; "" for the root.
  public let path: String

  /// A value at `path` of `file`, or of what `file` says of a tensor.
  public init(_ value: JSONValue, file: String, tensor: String? = nil, path: String = "") {
    self.value = value
    self.file = file
    self.tensor = tensor
    self.path = path
  }

  /// The root of a file's JSON.
  ///
  /// - Throws: `FileError` if the bytes are not strictly valid JSON.
  public init(_ bytes: FileBytes) throws(FileError) {
    do throws(StrictJSONError) {
      self.init(try StrictJSON.parse(bytes.bytes), file: bytes.path)
    } catch {
      throw FileError(file: bytes.path, fault: "is not valid JSON: \(error)")
    }
  }

  /// The root of the JSON in the file at `path`.
  ///
  /// - Throws: `FileError` if the file cannot be read, is longer than `byteCountMax` bytes, or is
  ///   not strictly valid JSON.
  public init(contentsOf path: String, byteCountMax: Int) throws(FileError) {
    try self.init(FileBytes.read(path, byteCountMax: byteCountMax))
  }

  /// A fault of this value: a text that begins with a verb, such as "is missing".
  public func fault(_ text: String, kind: FileError.Kind = .malformed) -> FileError {
    FileError(
      file: file, tensor: tensor, key: path.isEmpty ? nil : path, kind: kind, fault: text)
  }

  /// The beginning of the value's text, for messages.
  public var excerpt: String {
    let text = StrictJSON.text(value)
    return text.count > 60 ? text.prefix(60) + "…" : text
  }

  private func mismatch(_ needed: String) -> FileError {
    // A file as a whole would be written out only to be cut.
    let shown = path.isEmpty ? value.kind : excerpt
    return fault("is \(shown.count > 60 ? value.kind : shown), \(needed) is needed")
  }

  // MARK: Objects and arrays

  private func inner(_ value: JSONValue, _ path: String) -> JSONReader {
    JSONReader(value, file: file, tensor: tensor, path: path)
  }

  private func path(of key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

  /// The member `key`; nil if there is none, or this is not an object.
  public subscript(key: String) -> JSONReader? {
    value[key].map { inner($0, path(of: key)) }
  }

  /// The member `key` unless it is null; nil if there is none, or this is not an object.
  public func optional(_ key: String) -> JSONReader? {
    self[key].flatMap { $0.value == .null ? nil : $0 }
  }

  /// The member `key`, which may be null.
  ///
  /// - Throws: `FileError` if there is none, or this is not an object.
  public func required(_ key: String) throws(FileError) -> JSONReader {
    if let member = self[key] { return member }
    _ = try members()
    throw inner(.null, path(of: key)).fault("is missing")
  }

  /// The members, in the file's order.
  ///
  /// - Throws: `FileError` if this is not an object.
  public func members() throws(FileError) -> [(key: String, value: JSONReader)] {
    guard let members = value.members else { throw mismatch("an object") }
    return members.map { ($0.key, inner($0.value, path(of: $0.key))) }
  }

  /// The elements of an array.
  ///
  /// - Throws: `FileError` if this is not an array.
  public func elements() throws(FileError) -> [JSONReader] {
    guard let elements = value.elements else { throw mismatch("an array") }
    return elements.enumerated().map { inner($0.element, "\(path)[\($0.offset)]") }
  }

  /// Makes sure that the member `format` is `supported`.
  ///
  /// - Throws: `FileError` if there is none, or a different one.
  public func requireFormat(_ supported: Int) throws(FileError) {
    let format = try required("format")
    guard try format.integer() == supported else {
      throw format.fault(
        "is \(format.excerpt), this Granule reads \(supported)", kind: .unsupported)
    }
  }

  // MARK: Single values

  /// A string.
  ///
  /// - Throws: `FileError` if this is something else.
  public func string() throws(FileError) -> String {
    guard let string = value.string else { throw mismatch("a string") }
    return string
  }

  /// An integer that is written as one (`4`, never `4.0`), in `range`.
  ///
  /// - Throws: `FileError` if this is something else.
  public func integer(in range: ClosedRange<Int> = .min ... .max) throws(FileError) -> Int {
    guard let integer = value.integer else { throw mismatch("an integer") }
    guard range.contains(integer) else {
      let needed =
        range.upperBound == .max
        ? "at least \(range.lowerBound)" : "in \(range.lowerBound) … \(range.upperBound)"
      throw fault("is \(integer), it must be \(needed)")
    }
    return integer
  }

  /// A number.
  ///
  /// - Throws: `FileError` if this is something else.
  public func number() throws(FileError) -> Double {
    guard let number = value.number else { throw mismatch("a number") }
    return number
  }

  /// A truth value.
  ///
  /// - Throws: `FileError` if this is something else.
  public func bool() throws(FileError) -> Bool {
    guard let bool = value.bool else { throw mismatch("a truth value") }
    return bool
  }

  /// The case of a type that a string names.
  ///
  /// - Throws: `FileError` if this is something else; the message lists the cases.
  public func choice<Value: RawRepresentable<String> & CaseIterable>(
    of type: Value.Type = Value.self
  ) throws(FileError) -> Value {
    let name = try string()
    if let value = Value(rawValue: name) { return value }
    let known = Value.allCases.map(\.rawValue).joined(separator: ", ")
    throw fault("is \(excerpt), it must be one of \(known)")
  }
}
