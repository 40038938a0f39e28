/// A `.npy` file, versions 1.0 to 3.0: one array, little-endian, row-major.
///
/// Follows the format's own description (numpy.lib.format); Python objects are refused, never
/// unpickled.
public struct NumpyFile: Sendable {
  /// The array.
  public let tensor: Tensor

  /// Reads the header; the tensor is a view of `file`.
  ///
  /// - Throws: `TensorFileError` for every way in which the file departs from the format, and for
  ///   big-endian, column-major and non-numeric arrays.
  public init(_ file: FileBytes) throws(TensorFileError) {
    func fault(_ text: String) -> TensorFileError { TensorFileError(file: file.path, fault: text) }
    let bytes = file.bytes
    guard bytes.count >= 10, bytes.prefix(6).elementsEqual([0x93] + Array("NUMPY".utf8)) else {
      throw fault("is no .npy file: it does not begin with \\x93NUMPY")
    }
    let major = bytes[6]
    guard (1...3).contains(major) else { throw fault("is .npy version \(major), known are 1 to 3") }
    let headerStart = major == 1 ? 10 : 12
    guard bytes.count >= headerStart else { throw fault("ends inside its header") }
    let headerCount =
      major == 1
      ? Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)))
      : Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
    let dataStart = headerStart + headerCount
    guard dataStart <= bytes.count else {
      throw fault("claims a header of \(headerCount) bytes, but is only \(bytes.count) bytes long")
    }
    let text = String(decoding: bytes[headerStart..<dataStart], as: UTF8.self)
    var header = HeaderParser(text)
    guard let fields = header.parse() else {
      throw fault(
        "its header is no dictionary of descr, fortran_order and shape: \(text.prefix(120))")
    }
    guard !fields.isColumnMajor else {
      throw fault("is in column-major (fortran) order, row-major is needed")
    }
    guard let type = Self.elementTypes[fields.type] else {
      let known = Self.elementTypes.keys.sorted().joined(separator: ", ")
      throw fault("has element type '\(fields.type)', known are \(known)")
    }
    var byteCount = type.byteCount
    for length in fields.shape {
      let (product, overflow) = byteCount.multipliedReportingOverflow(by: length)
      guard !overflow else { throw fault("its shape \(fields.shape) is beyond 63 bits of bytes") }
      byteCount = product
    }
    guard bytes.count - dataStart == byteCount else {
      throw fault(
        "'\(fields.type)' \(fields.shape) needs \(byteCount) bytes, the file has "
          + "\(bytes.count - dataStart)")
    }
    tensor = Tensor(
      name: "", type: type, shape: fields.shape, file: file, byteRange: dataStart..<bytes.count)
  }

  private static let elementTypes: [String: ElementType] = [
    "<f8": .float64, "<f4": .float32, "<f2": .float16, "<i8": .int64, "<i4": .int32, "<i2": .int16,
    "|i1": .int8, "<u8": .uint64, "<u4": .uint32, "<u2": .uint16, "|u1": .uint8, "|b1": .bool,
  ]

  /// The header is a Python literal: a dictionary with exactly three keys of known form.
  private struct HeaderParser {
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
