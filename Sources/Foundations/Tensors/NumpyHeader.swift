public import GranuleFiles

/// The header of a `.npy` file, versions 1.0 to 3.0, which describes its array.
///
/// Follows the format's own description (numpy.lib.format); Python objects are refused, never
/// unpickled.
public struct NumpyHeader: Sendable {
  /// The type of every element.
  public let type: ElementType
  /// NumPy's name of the type, such as `<f4`.
  public let typeName: String
  /// Whether elements have their most significant byte first.
  public let isBigEndian: Bool
  /// Elements along each dimension; empty for a scalar.
  public let shape: [Int]
  /// The order of elements.
  public let order: StoredTensor.Order
  /// Number of bytes before the first element.
  public let byteCount: Int

  /// The longest header: it holds only a type and a shape.
  private static let headerBytesMax = 1 << 20

  /// Reads and checks the header.
  ///
  /// - Parameters:
  ///   - file: the path, for messages.
  ///   - tensor: the array's name, for messages; nil if the file holds just one.
  ///   - byteCount: of the whole file, elements included.
  ///   - read: fills a buffer with the bytes that follow those of the call before; never asked for
  ///     more than the file has.
  /// - Throws: `FileError` for every way in which the header departs from the format or does
  ///   not fit the file's length, or what `read` throws.
  public init(
    file: String, tensor: String?, byteCount fileBytes: Int, read: StoredTensor.Source
  ) throws(FileError) {
    func fault(_ text: String) -> FileError {
      FileError(file: file, tensor: tensor, fault: text)
    }
    func take(_ count: Int) throws(FileError) -> [UInt8] {
      let block = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
      defer { block.deallocate() }
      try read(block)
      return Array(block)
    }
    func littleEndian(_ bytes: ArraySlice<UInt8>) -> Int {
      bytes.reversed().reduce(0) { $0 << 8 | Int($1) }
    }
    let magic = [0x93] + Array("NUMPY".utf8)
    guard fileBytes >= 10 else { throw fault("is not a .npy file: it is \(fileBytes) bytes long") }
    var start = try take(10)
    guard start.starts(with: magic) else {
      throw fault("is not a .npy file: it does not begin with \\x93NUMPY")
    }
    let major = start[6]
    guard (1...3).contains(major) else { throw fault("is .npy version \(major), known are 1 to 3") }
    if major > 1 {
      guard fileBytes >= 12 else { throw fault("ends inside its header") }
      start += try take(2)
    }
    let headerCount = littleEndian(start[8...])
    guard start.count + headerCount <= fileBytes else {
      throw fault("claims a header of \(headerCount) bytes, but is only \(fileBytes) bytes long")
    }
    guard headerCount <= Self.headerBytesMax else {
      throw fault("claims a header of \(headerCount) bytes, the limit is \(Self.headerBytesMax)")
    }
    let text = String(decoding: try take(headerCount), as: UTF8.self)
    var parser = Parser(text)
    guard let fields = parser.parse() else {
      throw fault(
        "its header is not a dictionary of descr, fortran_order and shape: \(text.prefix(120))")
    }
    guard let type = Self.elementTypes[String(fields.type.dropFirst())],
      let sign = fields.type.first, "<>|=".contains(sign)
    else {
      let known = Self.elementTypes.keys.sorted().joined(separator: ", ")
      throw fault("has element type '\(fields.type)', known are \(known)")
    }
    var bytes = type.byteCount
    for length in fields.shape {
      let (product, overflow) = bytes.multipliedReportingOverflow(by: length)
      guard !overflow else { throw fault("its shape \(fields.shape) is beyond 63 bits of bytes") }
      bytes = product
    }
    byteCount = start.count + headerCount
    guard fileBytes - byteCount == bytes else {
      throw fault(
        "'\(fields.type)' \(fields.shape) needs \(bytes) bytes, the file has "
          + "\(fileBytes - byteCount)")
    }
    self.type = type
    typeName = fields.type
    isBigEndian = sign == ">"
    shape = fields.shape
    order = fields.isColumnMajor ? .columnMajor : .rowMajor
  }

  private static let elementTypes: [String: ElementType] = [
    "f8": .float64, "f4": .float32, "f2": .float16, "i8": .int64, "i4": .int32, "i2": .int16,
    "i1": .int8, "u8": .uint64, "u4": .uint32, "u2": .uint16, "u1": .uint8, "b1": .bool,
  ]

  /// The header is a Python literal: a dictionary with exactly three keys of known form.
  private struct Parser {
    struct Fields {
      var type = ""
      var isColumnMajor = false
      var shape: [Int] = []
    }
    private var rest: Substring

    init(_ text: String) { rest = Substring(text) }

    mutating func parse() -> Fields? {
      var fields = Fields()
      var seen: Set<String> = []
      guard take("{") else { return nil }
      while !take("}") {
        guard let key = quoted(), seen.insert(key).inserted, take(":") else { return nil }
        switch key {
        case "descr":
          guard let type = quoted() else { return nil }
          fields.type = type
        case "fortran_order":
          if take("True") { fields.isColumnMajor = true } else if !take("False") { return nil }
        case "shape":
          guard let shape = tuple() else { return nil }
          fields.shape = shape
        default: return nil
        }
        guard take(",") || rest.first == "}" else { return nil }
      }
      skipSpaces()
      return rest.isEmpty && seen.count == 3 ? fields : nil
    }

    private mutating func skipSpaces() { rest = rest.drop { $0 == " " || $0 == "\n" } }

    private mutating func take(_ token: String) -> Bool {
      skipSpaces()
      guard rest.hasPrefix(token) else { return false }
      rest = rest.dropFirst(token.count)
      skipSpaces()
      return true
    }

    private mutating func quoted() -> String? {
      skipSpaces()
      guard let quote = rest.first, quote == "'" || quote == "\"" else { return nil }
      rest = rest.dropFirst()
      let text = rest.prefix { $0 != quote && $0 != "\\" }
      rest = rest.dropFirst(text.count)
      guard rest.first == quote else { return nil }
      rest = rest.dropFirst()
      return String(text)
    }

    private mutating func tuple() -> [Int]? {
      guard take("(") else { return nil }
      var lengths: [Int] = []
      while !take(")") {
        let digits = rest.prefix { ("0"..."9").contains($0) }
        guard let length = Int(digits) else { return nil }
        lengths.append(length)
        rest = rest.dropFirst(digits.count)
        guard take(",") || rest.first == ")" else { return nil }
      }
      return lengths
    }
  }
}
