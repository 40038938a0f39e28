internal import CJansson

/// Why a text is not acceptable JSON.
public struct StrictJSONError: Error, CustomStringConvertible, Sendable {
  /// What was wrong and where, in libjansson's words.
  public let description: String
}

/// JSON read strictly, by libjansson: duplicate keys, text after the value, invalid UTF-8, NUL in
/// strings, integers beyond 64 bits and nesting deeper than `depthMax` are errors, never silently
/// mended.
public enum StrictJSON {
  /// How deeply arrays and objects may be nested: far beyond any file of ours, far below what a
  /// thread's stack holds.
  public static let depthMax = 64

  /// Parses one JSON value.
  ///
  /// - Throws: `StrictJSONError` with line, column and fault.
  public static func parse(_ bytes: UnsafeRawBufferPointer) throws(StrictJSONError) -> JSONValue {
    var fault = json_error_t()
    let text = bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
    // libjansson takes NULL for an error of the caller; an empty text is a fault of the text.
    guard let text, !bytes.isEmpty else { throw StrictJSONError(description: "the text is empty") }
    let flags = Int(JSON_REJECT_DUPLICATES | JSON_DECODE_ANY)
    guard let root = json_loadb(text, bytes.count, flags, &fault) else {
      let message = withUnsafeBytes(of: &fault.text) { raw in
        String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
      }
      throw StrictJSONError(
        description: "\(message) (line \(fault.line), column \(fault.column))")
    }
    defer { json_decref(root) }
    return try value(of: root, depth: 0)
  }

  /// Parses one JSON value.
  ///
  /// - Throws: `StrictJSONError` with line, column and fault.
  public static func parse(_ text: String) throws(StrictJSONError) -> JSONValue {
    let bytes = Array(text.utf8)
    let result: Result<JSONValue, StrictJSONError> = bytes.withUnsafeBytes { buffer in
      do throws(StrictJSONError) { return .success(try parse(buffer)) } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  /// The text of `value`: one line, or indented by two spaces. Reals keep 17 significant digits.
  public static func text(_ value: JSONValue, indented: Bool = false) -> String {
    var writer = JSONWriter(isIndented: indented)
    writer.append(value)
    return writer.text
  }

  private static func value(
    of node: UnsafeMutablePointer<json_t>, depth: Int
  ) throws(StrictJSONError) -> JSONValue {
    guard depth <= depthMax else {
      throw StrictJSONError(description: "nested more than \(depthMax) deep")
    }
    switch node.pointee.type {
    case JSON_OBJECT:
      var members: [JSONValue.Member] = []
      members.reserveCapacity(json_object_size(node))
      var iterator = json_object_iter(node)
      while let current = iterator {
        if let key = json_object_iter_key(current), let child = json_object_iter_value(current) {
          members.append(.init(String(cString: key), try value(of: child, depth: depth + 1)))
        }
        iterator = json_object_iter_next(node, current)
      }
      return .object(members)
    case JSON_ARRAY:
      var elements: [JSONValue] = []
      elements.reserveCapacity(json_array_size(node))
      for index in 0..<json_array_size(node) {
        guard let child = json_array_get(node, index) else { break }
        elements.append(try value(of: child, depth: depth + 1))
      }
      return .array(elements)
    case JSON_STRING:
      let bytes = UnsafeRawBufferPointer(
        start: json_string_value(node), count: json_string_length(node))
      return .string(String(decoding: bytes, as: UTF8.self))
    case JSON_INTEGER: return .integer(Int64(json_integer_value(node)))
    case JSON_REAL: return .real(json_real_value(node))
    case JSON_TRUE: return .bool(true)
    case JSON_FALSE: return .bool(false)
    default: return .null
    }
  }
}
