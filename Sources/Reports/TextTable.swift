/// A table of text: columns aligned to the right under their titles, for a terminal or a page.
package struct TextTable {
  private let titles: [String]
  private var rows: [[String]] = []

  /// An empty table with these column titles.
  package init(_ titles: String...) { self.titles = titles }

  /// An empty table whose column titles are computed.
  package init(columns titles: [String]) { self.titles = titles }

  /// Adds a row of one cell per title.
  package mutating func add(_ cells: String...) { add(cells: cells) }

  /// Adds a row of one cell per title.
  package mutating func add(cells: [String]) {
    precondition(cells.count == titles.count)
    rows.append(cells)
  }

  /// The table as HTML.
  package var html: String {
    func row(_ cells: [String], _ tag: String) -> String {
      "<tr>" + cells.map { "<\(tag)>\(SVG.escaped($0))</\(tag)>" }.joined() + "</tr>"
    }
    return "<table><thead>\(row(titles, "th"))</thead><tbody>\n"
      + rows.map { row($0, "td") }.joined(separator: "\n") + "\n</tbody></table>"
  }

  /// The table as text, one line per row; each line ends with a newline.
  package var text: String {
    let widths = titles.indices.map { column in
      ([titles] + rows).map { $0[column].count }.max() ?? 0
    }
    func line(_ cells: [String]) -> String {
      zip(cells, widths).map { cell, width in
        String(repeating: " ", count: width - cell.count) + cell
      }.joined(separator: "  ") + "\n"
    }
    let rule = widths.map { String(repeating: "─", count: $0) }
    return line(titles) + line(rule) + rows.map(line).joined()
  }
}
