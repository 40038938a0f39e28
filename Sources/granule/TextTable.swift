import Foundation

/// A table for people: columns aligned to the right under their titles.
struct TextTable {
  private let titles: [String]
  private var rows: [[String]] = []

  init(_ titles: String...) { self.titles = titles }

  /// With titles that are only known when it is made.
  init(columns titles: [String]) { self.titles = titles }

  /// Adds a row, a cell for each title.
  mutating func add(_ cells: String...) { add(cells: cells) }

  /// Adds a row, a cell for each title.
  mutating func add(cells: [String]) {
    precondition(cells.count == titles.count)
    rows.append(cells)
  }

  /// The table as HTML.
  var html: String {
    func row(_ cells: [String], _ tag: String) -> String {
      "<tr>" + cells.map { "<\(tag)>\(SVG.escaped($0))</\(tag)>" }.joined() + "</tr>"
    }
    return "<table><thead>\(row(titles, "th"))</thead><tbody>\n"
      + rows.map { row($0, "td") }.joined(separator: "\n") + "\n</tbody></table>"
  }

  /// The whole table, with a line's end after each row.
  var text: String {
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

extension Double {
  /// With so many digits after the point.
  func formatted(digits: Int) -> String { String(format: "%.\(digits)f", self) }
}

extension Int {
  /// With a comma between thousands.
  var grouped: String {
    var digits = String(magnitude)
    var groups: [String] = []
    while digits.count > 3 {
      groups.insert(String(digits.suffix(3)), at: 0)
      digits.removeLast(3)
    }
    return (self < 0 ? "-" : "") + ([digits] + groups).joined(separator: ",")
  }
}
