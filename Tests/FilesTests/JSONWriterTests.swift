import CJansson
import Foundation
@testable import GranuleFiles
import Testing

@Suite("JSON text")
struct JSONWriterTests {
  /// What libjansson makes of a text that it reads itself.
  private func dumped(_ text: String, indented: Bool) throws -> String {
    let flags = Int(JSON_DECODE_ANY)
    let root = try #require(json_loads(text, flags, nil))
    defer { json_decref(root) }
    let layout = (indented ? 2 : Int(JSON_COMPACT)) | 17 << 11
    let dump = try #require(json_dumps(root, Int(JSON_PRESERVE_ORDER | JSON_ENCODE_ANY) | layout))
    defer { free(dump) }
    return String(cString: dump)
  }

  @Test("is laid out and escaped as libjansson does it, to the byte", arguments: [false, true])
  func layout(indented: Bool) throws {
    let controls = (0..<32).map { String(UnicodeScalar(UInt8($0))) }.joined().dropFirst()
    let value: JSONValue = [
      "a": [], "b": [:], "c": [1, [2, ["d": .null]], true, false],
      "ä\u{7f}/\\\"": "\u{2028}😀e\u{301}",
      "controls": .string(String(controls)), "line": "\r\n", "least": .integer(.min),
    ]
    let text = StrictJSON.text(value, indented: indented)
    #expect(try dumped(text, indented: indented) == text)
    #expect(try StrictJSON.parse(text) == value)
    #expect(StrictJSON.text(.real(.infinity)) == "null")
  }

  @Test("has a point in real numbers, whatever the process's locale has")
  func locales() {
    #expect(JSONWriter.text(printed: Array("0.5".utf8)) == "0.5")
    #expect(JSONWriter.text(printed: Array("0,5".utf8)) == "0.5")
    #expect(JSONWriter.text(printed: Array("-1\u{66b}25e-07".utf8)) == "-1.25e-7")
    #expect(JSONWriter.text(printed: Array("3".utf8)) == "3.0")
  }

  @Test("has a real number's digits as libjansson has them")
  func reals() throws {
    var generator = SystemRandomNumberGenerator()
    var numbers = [
      0.0, -0.0, 1, 100, 1e16, 1e17, 123_456_789_012_345_680, 1e-4, 1e-5, 1e100, -1e-300,
    ]
    while numbers.count < 20_000 {
      let number = Double(bitPattern: generator.next())
      if number.isFinite { numbers.append(number) }
    }
    let text = StrictJSON.text(.array(numbers.map { .real($0) }))
    #expect(try dumped(text, indented: false) == text)
    let read = try #require(try StrictJSON.parse(text).elements).map(\.number)
    #expect(read == numbers)
  }
}
