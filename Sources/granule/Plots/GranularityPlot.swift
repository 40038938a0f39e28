import Foundation

/// What a granularity gives and what it costs, drawn as SVG: one axis in percent, granularity on a
/// logarithmic one.
struct GranularityPlot {
  /// One granularity.
  struct Point {
    var granularity: Int
    /// Share of variance explained, 1 − FVU.
    var explained: Double
    /// Compute time as a share of the largest granularity's.
    var cost: Double
  }

  /// What was measured, below the title.
  var subtitle: String
  /// Granularities ascending; at least one.
  var points: [Point]

  private static let width = 800.0
  private static let height = 420.0
  private static let plot = (left: 64.0, right: 600.0, top: 84.0, bottom: 356.0)
  private static let explainedColour = "#1d4ed8"
  private static let costColour = "#c2410c"

  /// The picture as a file's text.
  var svg: String {
    let (plot, width, height) = (Self.plot, Self.width, Self.height)
    var parts = [
      """
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Int(width)) \(Int(height))" \
      font-family="system-ui, -apple-system, 'Segoe UI', sans-serif" font-size="13" fill="#374151">
      <rect width="100%" height="100%" rx="8" fill="#ffffff"/>
      <text x="\(plot.left)" y="34" font-size="18" font-weight="600" fill="#111827">Fidelity and \
      cost by granularity</text>
      <text x="\(plot.left)" y="56" fill="#6b7280">\(SVG.escaped(subtitle))</text>
      """
    ]
    for percent in stride(from: 0, through: 100, by: 25) {
      let y = self.y(Double(percent) / 100)
      parts.append(
        """
        <line x1="\(plot.left)" x2="\(plot.right)" y1="\(y)" y2="\(y)" stroke="#e5e7eb"/>
        <text x="\(plot.left - 8)" y="\(y + 4)" text-anchor="end" fill="#6b7280">\(percent) %</text>
        """)
    }
    for point in points {
      parts.append(
        """
        <text x="\(x(point.granularity))" y="\(plot.bottom + 22)" text-anchor="middle" \
        fill="#6b7280">\(point.granularity.grouped)</text>
        """)
    }
    parts.append(
      """
      <text x="\((plot.left + plot.right) / 2)" y="\(plot.bottom + 46)" text-anchor="middle">\
      granularity: latents used</text>
      """)
    parts.append(
      line(\.explained, colour: Self.explainedColour, label: "variance explained", above: true))
    parts.append(line(\.cost, colour: Self.costColour, label: "compute time", above: false))
    parts.append("</svg>\n")
    return parts.joined(separator: "\n")
  }

  private func line(
    _ value: KeyPath<Point, Double>, colour: String, label: String, above: Bool
  ) -> String {
    let positions = points.map { (x: x($0.granularity), y: y($0[keyPath: value])) }
    let path = positions.map { "\($0.x),\($0.y)" }.joined(separator: " ")
    var parts = [
      """
      <polyline points="\(path)" fill="none" stroke="\(colour)" stroke-width="2.5" \
      stroke-linejoin="round"/>
      """
    ]
    for (number, (point, position)) in zip(points, positions).enumerated() {
      // The last one's stands beside the line's name, where the lines may meet.
      let percent =
        number == points.count - 1 ? "" : (point[keyPath: value] * 100).formatted(digits: 0)
      parts.append(
        """
        <circle cx="\(position.x)" cy="\(position.y)" r="4" fill="\(colour)"/>
        <text x="\(position.x)" y="\(position.y + (above ? -10 : 20))" text-anchor="middle" \
        font-size="12" fill="\(colour)">\(percent)</text>
        """)
    }
    if let end = positions.last, let last = points.last {
      let percent = (last[keyPath: value] * 100).formatted(digits: 0)
      parts.append(
        """
        <text x="\(end.x + 14)" y="\(end.y + (above ? 14 : -6))" font-weight="600" \
        fill="\(colour)">\(percent) % \(label)</text>
        """)
    }
    return parts.joined(separator: "\n")
  }

  private func x(_ granularity: Int) -> Double {
    let (plot, least) = (Self.plot, log2(Double(points[0].granularity)))
    let span = log2(Double(points[points.count - 1].granularity)) - least
    let share = span > 0 ? (log2(Double(granularity)) - least) / span : 0.5
    return Self.rounded(plot.left + 24 + share * (plot.right - plot.left - 48))
  }

  private func y(_ share: Double) -> Double {
    Self.rounded(Self.plot.bottom - min(max(share, 0), 1) * (Self.plot.bottom - Self.plot.top))
  }

  private static func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }
}
