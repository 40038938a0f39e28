import GranuleReports
import Testing

@Suite("Tables, numbers and pages")
struct TableTests {
  @Test("columns are as wide as their widest cell, and aligned to the right")
  func text() {
    var table = TextTable("granularity", "k")
    table.add("512", "8")
    table.add(cells: ["16,384", "–"])
    #expect(
      table.text == """
        granularity  k
        ───────────  ─
                512  8
             16,384  –

        """)
  }

  @Test("HTML escapes what cells hold")
  func html() {
    var table = TextTable(columns: ["a<b", "c"])
    table.add("\"x\" & y", "1")
    #expect(
      table.html == """
        <table><thead><tr><th>a&lt;b</th><th>c</th></tr></thead><tbody>
        <tr><td>&quot;x&quot; &amp; y</td><td>1</td></tr>
        </tbody></table>
        """)
  }

  @Test(
    "numbers have a comma between thousands",
    arguments: [
      (0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567"),
      (Int.min, "-9,223,372,036,854,775,808"),
    ])
  func grouped(number: Int, text: String) { #expect(number.grouped == text) }

  @Test(
    "durations are rounded to seconds",
    arguments: [
      (0.4, "0 s"), (59.4, "59 s"), (59.5, "1:00"), (3599, "59:59"), (3600, "1:00:00"),
      (.infinity, "?"), (.nan, "?"),
    ])
  func duration(seconds: Double, text: String) { #expect(seconds.duration == text) }

  @Test("a page holds its parts in order, escaped, and loads no other file")
  func page() throws {
    var table = TextTable("t")
    table.add("cell")
    var page = HTMLPage(title: "a & b", facts: ["f < g"])
    page.add(heading: "h > i")
    page.add(figures: [.init(key: "k", svg: "<svg></svg>", caption: "c & d")])
    page.add(sections: [.init(title: "s", table: table, note: "n")])
    page.addFooter(command: "granule <x>", json: "{}", file: "numbers.json")
    let parts = [
      "<title>a &amp; b – Granule", "f &lt; g", "<h2>h > i", "<figure><svg></svg>", "c &amp; d",
      "download=\"k.svg\"", "<h3>s", "<td>cell", "granule &lt;x>", "download=\"numbers.json\"",
    ]
    var rest = page.html[...]
    for part in parts {
      let place = try #require(rest.firstRange(of: part), "\(part) is missing or out of order")
      rest = rest[place.upperBound...]
    }
    #expect(!page.html.contains("http") && !page.html.contains("src="))
  }
}
