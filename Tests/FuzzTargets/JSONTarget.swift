internal import GranuleFiles

extension FuzzTarget {
  /// JSON; what is parsed can be written, and is the same when parsed again.
  static let json = FuzzTarget(
    name: "json",
    seeds: {
      [
        #"{"a": [1, -2.5e-3, true, false, null, "x\u00e9\n\ud83d\ude00"], "b": {"c": {}}, "d": []}"#,
        #"[9223372036854775807, -9223372036854775808, 1.7976931348623157e308, 0.1]"#, #""""#,
      ].map { Seed(Array($0.utf8)) }
    },
    run: { bytes in
      let value: JSONValue
      do throws(StrictJSONError) { value = try StrictJSON.parse(bytes) } catch { return .refused }
      for indented in [false, true] {
        let again = try StrictJSON.parse(StrictJSON.text(value, indented: indented))
        try require(again == value, "JSON keeps its meaning when written")
      }
      return .accepted
    })
}
