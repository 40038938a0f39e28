import GranuleFiles
import Testing

@Suite("A reader of JSON")
struct JSONReaderTests {
  private enum Colour: String, CaseIterable { case red, green }

  private let root: JSONReader

  init() throws {
    let text = #"""
      {"width": 12.5, "name": "x", "none": null, "on": true, "colour": "blue",
       "rows": [{"k": 4, "l0": 2}, {"k": -1}], "numbers": [1, 2.5]}
      """#
    root = JSONReader(try StrictJSON.parse(text), file: "a.json")
  }

  private func expectFault(
    _ text: String, _ kind: FileError.Kind = .malformed, _ body: () throws -> Void
  ) {
    let error = #expect(throws: FileError.self) { try body() }
    #expect(error?.description == text && error?.kind == kind)
  }

  @Test("answers values of the kind that was asked for")
  func values() throws {
    #expect(try root.required("width").number() == 12.5)
    #expect(try root.required("name").string() == "x")
    #expect(try root.required("on").bool())
    #expect(try root.required("rows").elements().map { try $0.required("k").integer() } == [4, -1])
    #expect(try root.required("numbers").elements().map { try $0.number() } == [1, 2.5])
    #expect(try root.required("rows").elements()[0].required("l0").integer(in: 0...2) == 2)
    #expect(try root.members().map(\.key).first == "width")
    #expect(root.optional("none") == nil && root.optional("other") == nil)
    #expect(root["none"]?.value == .null && root["name"]?["inner"] == nil)
    #expect(root["name"]?.path == "name")
    let colour = JSONReader("green", file: "a.json")
    #expect(try colour.choice(of: Colour.self) == .green)
  }

  @Test("names file and key path, what was found and what is needed")
  func faults() {
    expectFault("a.json: width is 12.5, an integer is needed") {
      _ = try root.required("width").integer()
    }
    expectFault("a.json: rows[1].k is -1, it must be at least 0") {
      _ = try root.required("rows").elements().map { try $0.required("k").integer(in: 0 ... .max) }
    }
    expectFault("a.json: rows[0].k is 4, it must be in 1 … 3") {
      _ = try root.required("rows").elements()[0].required("k").integer(in: 1...3)
    }
    expectFault("a.json: rows[1].l0 is missing") {
      _ = try root.required("rows").elements()[1].required("l0")
    }
    expectFault("a.json: name is \"x\", an object is needed") {
      _ = try root.required("name").required("inner")
    }
    expectFault("a.json: is an object, an array is needed") {
      _ = try root.elements()
    }
    expectFault("a.json: colour is \"blue\", it must be one of red, green") {
      _ = try root.required("colour").choice(of: Colour.self)
    }
    expectFault("a.json: on is only for tests", .unsupported) {
      throw try root.required("on").fault("is only for tests", kind: .unsupported)
    }
  }
}
