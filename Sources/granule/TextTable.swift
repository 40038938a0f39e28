import Foundation

/// A table for people: columns aligned to the right under their titles.
struct TextTable {
  private let titles: [String]
  private var rows: [[String]] = []

  init(_ titles: String...) { self.titles = titles }

  /// Adds a row, a cell for each title.
  mutating func add(_ cells: String...) {
    precondition(cells.count == titles.count)
    rows.append(cells)
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
