import GranuleFiles
import Testing

@Suite("JSON")
struct StrictJSONTests {
  @Test("keeps order, integers apart from reals, and every character")
  func values() throws {
    let value = try StrictJSON.parse(
      #"{"b": [1, -2.5, 1e3, true, null], "a": {"ä\u0001\"": ""}, "big": 9223372036854775807}"#)
    #expect(value.members?.map(\.key) == ["b", "a", "big"])
    #expect(value["b"] == [1, -2.5, 1000.0, true, .null])
    #expect(value["b"]?.elements?[2].integer == nil)
    #expect(value["big"]?.integer == .max)
    #expect(try StrictJSON.parse(StrictJSON.text(value)) == value)
    #expect(try StrictJSON.parse(StrictJSON.text(value, indented: true)) == value)
  }

  @Test("keeps every bit of a real number")
  func reals() throws {
    for number in [
      0.1, 1.0 / 3, Double.leastNonzeroMagnitude, 1.7976931348623157e308, -0.1791708907084553,
    ] {
      #expect(try StrictJSON.parse(StrictJSON.text(.real(number))).number == number)
    }
    #expect(JSONValue(Double.nan) == .null)
  }

  @Test(
    "that is not strictly valid is refused",
    arguments: [
      "", " ", "{", #"{"a": 1, "a": 1}"#, "[1,]", "nul", "1 2", "NaN", "{'a': 1}", "[01]",
      "99999999999999999999", "1e999", "\"\u{1}\"", #"{"a\u0000": 1}"#,
      String(repeating: "[", count: 66) + String(repeating: "]", count: 66),
      String(repeating: "[", count: 100_000),
    ])
  func invalid(text: String) {
    #expect(throws: StrictJSONError.self) { try StrictJSON.parse(text) }
  }
}
