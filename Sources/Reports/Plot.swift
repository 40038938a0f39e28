/// Lines and points on two axes, drawn as SVG for screen and paper. Ink is the current text colour,
/// so one picture suits light and dark pages; series differ in colour and in their markers.
package struct Plot {
  /// What an axis shows; its scale follows from the values.
  package struct Axis {
    package var label: String
    package var isLogarithmic: Bool
    /// The values to label; nil lets the scale choose.
    package var ticks: [Double]?
    /// The least and largest value of a linear axis; nil takes those of the values, with a margin.
    package var range: ClosedRange<Double>?
    /// Whether labels are percentages: 0.25 is written 25 %.
    package var isPercent: Bool

    package init(
      label: String, isLogarithmic: Bool = false, ticks: [Double]? = nil,
      range: ClosedRange<Double>? = nil, isPercent: Bool = false
    ) {
      self.label = label
      self.isLogarithmic = isLogarithmic
      self.ticks = ticks
      self.range = range
      self.isPercent = isPercent
    }

    /// A value as the axis writes it.
    func text(_ value: Double) -> String { number(value) + (isPercent ? " %" : "") }

    /// A value as the axis writes it, without its unit.
    func number(_ value: Double) -> String {
      isPercent ? (100 * value).formatted(digits: 0) : PlotScale.label(value)
    }
  }

  /// One line, or one set of points.
  package struct Series {
    package enum Style { case line, markers, both }

    /// The name in the legend, or beside the line; empty for none.
    package var name: String
    package var points: [(x: Double, y: Double)]
    package var style: Style
    /// Number of the colour and of the marker, counted from 0.
    package var number: Int
    package var isDashed: Bool

    package init(
      name: String, points: [(x: Double, y: Double)], style: Style = .both, number: Int = 0,
      isDashed: Bool = false
    ) {
      self.name = name
      self.points = points
      self.style = style
      self.number = number
      self.isDashed = isDashed
    }
  }

  package var title: String
  /// A quieter line below the title; nil for none.
  package var subtitle: String?
  package var x: Axis
  package var y: Axis
  package var series: [Series]
  /// Values of x at which a thin vertical line stands, such as granularities.
  package var guides: [Double] = []
  /// Whether a thin diagonal line joins the equal values of both axes.
  package var hasDiagonal = false
  /// Whether each line's name and last value stand at its end, and each point's value beside it;
  /// otherwise a legend names the series.
  package var isLabelledDirectly = false

  package init(
    title: String, subtitle: String? = nil, x: Axis, y: Axis, series: [Series],
    guides: [Double] = [], hasDiagonal: Bool = false, isLabelledDirectly: Bool = false
  ) {
    self.title = title
    self.subtitle = subtitle
    self.x = x
    self.y = y
    self.series = series
    self.guides = guides
    self.hasDiagonal = hasDiagonal
    self.isLabelledDirectly = isLabelledDirectly
  }

  static let characterWidth = 6.1
  /// Colours that colour-blind readers can tell apart, visible on white and on black.
  static let colours = [
    "#3a7fc1", "#d55e00", "#009e73", "#b565a7", "#d99a00", "#56a5d8", "#8c6d4f", "#7f7f7f",
  ]

  static func colour(_ number: Int) -> String { colours[number % colours.count] }

  /// The picture as a file's text, on the colour of the page that it stands on.
  package var svg: String {
    let picture = picture
    return SVG.picture(
      width: picture.width, height: picture.height, picture.body, title: title)
  }

  /// The picture as a file's text, on white.
  package var svgOnWhite: String { SVG.column([self], title: title) }

  /// The picture's elements, and how much room they take.
  var picture: (body: [String], width: Double, height: Double) {
    let frame = PlotFrame(self)
    var body = frame.titles + frame.axes
    body += series.flatMap { lines($0, frame) }
    if isLabelledDirectly {
      body += PlotLabels(self, frame).parts
      return (body, frame.width, frame.bottom + 40)
    }
    let (legend, bottom) = legend(below: frame.bottom + 48)
    return (body + legend, frame.width, bottom + 4)
  }

  private func lines(_ series: Series, _ frame: PlotFrame) -> [String] {
    let shown = frame.places(series)
    var parts: [String] = []
    if series.style != .markers, shown.count > 1 {
      let path = shown.map { "\(SVG.number($0.x)),\(SVG.number($0.y))" }.joined(separator: " ")
      parts.append(
        """
        <polyline points="\(path)" fill="none" stroke="\(Self.colour(series.number))" \
        stroke-width="1.8" stroke-linejoin="round"\(series.isDashed ? #" stroke-dasharray="5 3""# : "")/>
        """)
    }
    if series.style != .line { parts += shown.map { Self.marker(series, $0.x, $0.y) } }
    return parts
  }

  private func legend(below top: Double) -> (parts: [String], bottom: Double) {
    let named = series.filter { !$0.name.isEmpty }
    guard named.count > 1 else { return ([], top) }
    let (rowHeight, right) = (17.0, 446.0)
    let widest = Double(named.map(\.name.count).max() ?? 0) * Self.characterWidth + 40
    let columns = max(1, Int((right - 20) / widest))
    var parts: [String] = []
    for (index, series) in named.enumerated() {
      let left = 20 + Double(index % columns) * (right - 20) / Double(columns)
      let y = top + Double(index / columns) * rowHeight + 8
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
    return (parts, top + Double(rows) * rowHeight)
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

extension Plot {
  /// One granularity: what it explains, and what it costs.
  package struct GranularityPoint {
    package var granularity: Int
    /// Share of variance explained, 1 − FVU.
    package var explained: Double
    /// Compute time as a share of the largest granularity's.
    package var cost: Double

    package init(granularity: Int, explained: Double, cost: Double) {
      self.granularity = granularity
      self.explained = explained
      self.cost = cost
    }
  }

  /// Fidelity and cost against granularity, both in percent.
  ///
  /// - Parameters:
  ///   - subtitle: what was measured.
  ///   - points: granularities ascending; at least one.
  package static func granularities(subtitle: String, _ points: [GranularityPoint]) -> Plot {
    func series(
      _ name: String, _ value: KeyPath<GranularityPoint, Double>, number: Int
    ) -> Series {
      Series(
        name: name,
        points: points.map { (Double($0.granularity), min(max($0[keyPath: value], 0), 1)) },
        number: number)
    }
    return Plot(
      title: "Fidelity and cost by granularity", subtitle: subtitle,
      x: Axis(
        label: "granularity: latents used", isLogarithmic: true,
        ticks: points.map { Double($0.granularity) }),
      y: Axis(label: "", ticks: [0, 0.25, 0.5, 0.75, 1], range: 0...1, isPercent: true),
      series: [
        series("variance explained", \.explained, number: 0),
        series("compute time", \.cost, number: 1),
      ], isLabelledDirectly: true)
  }
}
