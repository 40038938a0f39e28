internal import Glibc

/// Writes JSON text, laid out as libjansson does it.
struct JSONWriter {
  private(set) var text = ""
  private let isIndented: Bool
  private var depth = 0

  init(isIndented: Bool) { self.isIndented = isIndented }

  mutating func append(_ value: JSONValue) {
    switch value {
    case .object(let members):
      appendList(members, between: "{", and: "}") { writer, member in
        writer.append(member.key)
        writer.text += writer.isIndented ? ": " : ":"
        writer.append(member.value)
      }
    case .array(let elements):
      appendList(elements, between: "[", and: "]") { $0.append($1) }
    case .string(let string): append(string)
    case .integer(let integer): text += String(integer)
    case .real(let real): text += real.isFinite ? Self.text(real) : "null"
    case .bool(let bool): text += bool ? "true" : "false"
    case .null: text += "null"
    }
  }

  private mutating func appendList<Element>(
    _ elements: [Element], between opening: String, and closing: String,
    _ append: (inout JSONWriter, Element) -> Void
  ) {
    text += opening
    depth += 1
    for (index, element) in elements.enumerated() {
      if index > 0 { text += "," }
      appendNewline()
      append(&self, element)
    }
    depth -= 1
    if !elements.isEmpty { appendNewline() }
    text += closing
  }

  private mutating func appendNewline() {
    if isIndented { text += "\n" + String(repeating: "  ", count: depth) }
  }

  private mutating func append(_ string: String) {
    text += "\""
    for scalar in string.unicodeScalars {
      switch scalar {
      case "\"", "\\": text += "\\\(scalar)"
      case "\u{8}": text += "\\b"
      case "\u{c}": text += "\\f"
      case "\n": text += "\\n"
      case "\r": text += "\\r"
      case "\t": text += "\\t"
      case ..<" ":
        let digits = String(scalar.value, radix: 16, uppercase: true)
        text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: text.unicodeScalars.append(scalar)
      }
    }
    text += "\""
  }

  /// 17 significant digits tell every real from every other; a fraction or an exponent tells a real
  /// from an integer.
  private static func text(_ real: Double) -> String {
    var buffer = [CChar](repeating: 0, count: 32)
    withVaList([real]) { _ = vsnprintf(&buffer, buffer.count, "%.17g", $0) }
    return text(printed: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) })
  }

  /// The JSON of a real that C has printed. C writes the decimal point of the process's locale, of one
  /// or more bytes, which an embedding program may have set; JSON's is a point.
  static func text(printed: [UInt8]) -> String {
    var digits = ""
    for byte in printed {
      if "+-0123456789e".utf8.contains(byte) {
        digits.unicodeScalars.append(Unicode.Scalar(byte))
      } else if digits.last != "." {
        digits += "."
      }
    }
    guard let e = digits.firstIndex(of: "e") else {
      return digits.contains(".") ? digits : digits + ".0"
    }
    // C pads exponents: 1e-07 is written 1e-7, and 1e+20 is written 1e20.
    guard let exponent = Int(digits[digits.index(after: e)...]) else { return digits }
    return "\(digits[..<e])e\(exponent)"
  }
}
