import Foundation

/// Lines and points in two axes, drawn as SVG for screen and paper: ink is the current text colour,
/// so that one picture suits light and dark pages; series differ in colour and in their markers.
struct Plot {
  /// An axis before it knows its values.
  struct Axis {
    var label: String
    var isLogarithmic = false
    /// Values to label, nil to choose some.
    var ticks: [Double]?
  }

  /// One line, or one set of points.
  struct Series {
    enum Style { case line, markers, both }

    /// In the legend; "" for none.
    var name: String
    var points: [(x: Double, y: Double)]
    var style = Style.both
    /// Which colour and which marker, counted from 0.
    var number = 0
    var isDashed = false
  }

  var title: String
  var x: Axis
  var y: Axis
  var series: [Series]
  /// Values of x at which a thin vertical line stands, such as granularities.
  var guides: [Double] = []
  /// Values of both axes between which a thin diagonal line stands.
  var hasDiagonal = false

  private static let width = 460.0
  private static let area = (left: 62.0, right: 446.0, top: 34.0, bottom: 276.0)
  private static let legendRow = 17.0
  private static let characterWidth = 6.1
  /// Told apart by people who see colours differently, and visible on white and on black.
  static let colours = [
    "#3a7fc1", "#d55e00", "#009e73", "#b565a7", "#d99a00", "#56a5d8", "#8c6d4f", "#7f7f7f",
  ]

  /// The picture as a file's text.
  var svg: String {
    let picture = picture
    return SVG.picture(
      width: picture.width, height: picture.height, picture.body, title: title)
  }

  /// The picture's elements, and how much room they take.
  var picture: (body: [String], width: Double, height: Double) {
    let area = Self.area
    let all = series.flatMap(\.points)
    let xScale = PlotScale(
      all.map(\.x) + (x.ticks ?? []), isLogarithmic: x.isLogarithmic, ticks: x.ticks)
    let yScale = PlotScale(all.map(\.y), isLogarithmic: y.isLogarithmic, ticks: y.ticks)
    func px(_ value: Double) -> Double {
      area.left + xScale.share(value) * (area.right - area.left)
    }
    func py(_ value: Double) -> Double {
      area.bottom - yScale.share(value) * (area.bottom - area.top)
    }

    var body = [SVG.text(area.left, 20, title, size: 13.5, weight: 600)]
    for tick in yScale.ticks {
      let y = py(tick)
      body.append(SVG.line(area.left, y, area.right, y, opacity: 0.13))
      body.append(
        SVG.text(area.left - 7, y + 3.8, PlotScale.label(tick), anchor: "end", opacity: 0.75))
    }
    for guide in guides where xScale.holds(guide) {
      body.append(
        SVG.line(px(guide), area.top, px(guide), area.bottom, opacity: 0.4, dash: "2 3"))
    }
    var labelledUpTo = -Double.infinity
    for tick in xScale.ticks {
      let (position, label) = (px(tick), PlotScale.label(tick))
      body.append(SVG.line(position, area.bottom, position, area.bottom + 4, opacity: 0.6))
      let half = Double(label.count) * Self.characterWidth / 2
      guard position - half > labelledUpTo else { continue }
      labelledUpTo = position + half + 5
      body.append(SVG.text(position, area.bottom + 17, label, anchor: "middle", opacity: 0.75))
    }
    body.append(SVG.line(area.left, area.bottom, area.right, area.bottom, opacity: 0.6))
    body.append(SVG.line(area.left, area.top, area.left, area.bottom, opacity: 0.6))
    body.append(
      SVG.text((area.left + area.right) / 2, area.bottom + 36, x.label, anchor: "middle"))
    body.append(
      SVG.text(
        14, (area.top + area.bottom) / 2, y.label, anchor: "middle",
        rotation: -90))
    if hasDiagonal {
      let (least, most) = (
        max(xScale.range.lowerBound, yScale.range.lowerBound),
        min(xScale.range.upperBound, yScale.range.upperBound)
      )
      if least < most {
        body.append(SVG.line(px(least), py(least), px(most), py(most), opacity: 0.5, dash: "4 3"))
      }
    }

    for series in series {
      let shown = series.points.filter { xScale.holds($0.x) && yScale.holds($0.y) }
        .map { (x: px($0.x), y: py($0.y)) }
      if series.style != .markers, shown.count > 1 {
        let path = shown.map { "\(SVG.number($0.x)),\(SVG.number($0.y))" }.joined(separator: " ")
        body.append(
          """
          <polyline points="\(path)" fill="none" stroke="\(Self.colour(series.number))" \
          stroke-width="1.8" stroke-linejoin="round"\(series.isDashed ? #" stroke-dasharray="5 3""# : "")/>
          """)
      }
      if series.style != .line {
        body += shown.map { Self.marker(series, $0.x, $0.y) }
      }
    }
    let (legend, bottom) = legend(below: area.bottom + 48)
    return (body + legend, Self.width, bottom + 4)
  }

  static func colour(_ number: Int) -> String { colours[number % colours.count] }

  private func legend(below top: Double) -> (parts: [String], bottom: Double) {
    let named = series.filter { !$0.name.isEmpty }
    guard named.count > 1 else { return ([], top) }
    let widest = Double(named.map(\.name.count).max() ?? 0) * Self.characterWidth + 40
    let columns = max(1, Int((Self.area.right - 20) / widest))
    var parts: [String] = []
    for (index, series) in named.enumerated() {
      let left = 20 + Double(index % columns) * (Self.area.right - 20) / Double(columns)
      let y = top + Double(index / columns) * Self.legendRow + 8
      if series.style != .markers {
        parts.append(
          SVG.line(
            left, y, left + 24, y, opacity: 1, dash: series.isDashed ? "5 3" : nil,
            colour: Self.colour(series.number), width: 1.8))
      }
      if series.style != .line { parts.append(Self.marker(series, left + 12, y)) }
      parts.append(SVG.text(left + 31, y + 4, series.name))
    }
    let rows = (named.count + columns - 1) / columns
    return (parts, top + Double(rows) * Self.legendRow)
  }

  /// A disc, square, triangle or diamond; hollow for a dashed line.
  private static func marker(_ series: Series, _ x: Double, _ y: Double) -> String {
    let colour = colour(series.number)
    let paint =
      #"fill="\#(series.isDashed ? "none" : colour)" stroke="\#(colour)" stroke-width="1.3""#
    func polygon(_ corners: [(Double, Double)]) -> String {
      let points = corners.map { "\(SVG.number(x + $0.0)),\(SVG.number(y + $0.1))" }
      return #"<polygon points="\#(points.joined(separator: " "))" \#(paint)/>"#
    }
    return switch series.number % 4 {
    case 0: #"<circle cx="\#(SVG.number(x))" cy="\#(SVG.number(y))" r="3.1" \#(paint)/>"#
    case 1: polygon([(-2.8, -2.8), (2.8, -2.8), (2.8, 2.8), (-2.8, 2.8)])
    case 2: polygon([(0, -3.8), (3.5, 2.8), (-3.5, 2.8)])
    default: polygon([(0, -4), (4, 0), (0, 4), (-4, 0)])
    }
  }
}
