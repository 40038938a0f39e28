internal import GranuleFiles
internal import GranuleTensors

/// A library's JSON configuration, read strictly.
struct Configuration {
  let file: String
  let root: JSONValue

  private static let byteCountMax = 16 << 20
  /// Beyond any dictionary, and small enough that bytes of products of two sizes fit 63 bits.
  static let sizeMax = 1 << 28

  /// - Throws: `FileError` where the file is missing, no JSON or no object.
  init(_ path: String) throws(FileError) {
    file = path
    let bytes = try FileBytes.read(path, byteCountMax: Self.byteCountMax)
    do throws(StrictJSONError) { root = try StrictJSON.parse(bytes.bytes) } catch {
      throw FileError(file: path, fault: "is not valid JSON: \(error)")
    }
    guard root.members != nil else {
      throw FileError(file: path, fault: "is \(root.kind), an object is needed")
    }
  }

  func fault(_ text: String) -> FileError { FileError(file: file, fault: text) }

  /// The value of a key that is there and not null.
  func value<T>(
    _ key: String, in object: JSONValue? = nil, _ kind: String, _ convert: (JSONValue) -> T?
  ) throws(FileError) -> T? {
    guard let value = (object ?? root)[key], value != .null else { return nil }
    guard let converted = convert(value) else {
      throw fault("\(key) is \(StrictJSON.text(value).prefix(60)), \(kind) is needed")
    }
    return converted
  }

  /// An integer within a range, nil where the key is missing.
  func integer(
    _ key: String, in object: JSONValue? = nil, range: ClosedRange<Int>
  ) throws(FileError) -> Int? {
    guard let value = try value(key, in: object, "an integer", \.integer) else { return nil }
    guard range.contains(value) else {
      throw fault("\(key) is \(value), it must be in \(range.lowerBound) … \(range.upperBound)")
    }
    return value
  }

  /// A truth value, false where the key is missing.
  func flag(_ key: String) throws(FileError) -> Bool {
    try value(key, "a truth value", \.bool) ?? false
  }
}
