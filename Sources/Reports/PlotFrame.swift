/// The axes of a plot, and where its values lie in the picture.
struct PlotFrame {
  /// Edges of the area in which values are drawn.
  let left = 62.0
  let right = 446.0
  let top: Double
  let bottom: Double
  /// Width of the whole picture.
  let width: Double
  private let plot: Plot
  private let xScale: PlotScale
  private let yScale: PlotScale

  init(_ plot: Plot) {
    self.plot = plot
    let values = plot.series.flatMap(\.points)
    xScale = PlotScale(values.map(\.x) + (plot.x.ticks ?? []), plot.x)
    yScale = PlotScale(values.map(\.y), plot.y)
    let hasSubtitle = plot.subtitle != nil
    top = hasSubtitle ? 56 : 34
    bottom = hasSubtitle ? 298 : 276
    let labels = plot.isLabelledDirectly ? plot.series.map { $0.name.count + 7 }.max() ?? 0 : 0
    width = 460 + Double(labels) * Plot.characterWidth
  }

  /// The places of a series' points, without those that the axes cannot show; `value` is the
  /// point's own y.
  func places(_ series: Plot.Series) -> [(x: Double, y: Double, value: Double)] {
    series.points.filter { xScale.holds($0.x) && yScale.holds($0.y) }
      .map { (x: x($0.x), y: y($0.y), value: $0.y) }
  }

  private func x(_ value: Double) -> Double { left + xScale.share(value) * (right - left) }

  private func y(_ value: Double) -> Double { bottom - yScale.share(value) * (bottom - top) }

  var titles: [String] {
    [SVG.text(left, 20, plot.title, size: 13.5, weight: 600)]
      + (plot.subtitle.map { [SVG.text(left, 37, $0, opacity: 0.75)] } ?? [])
  }

  /// The axes with their labels, the horizontal lines, the guides and the diagonal.
  var axes: [String] {
    var parts: [String] = []
    for tick in yScale.ticks {
      let y = y(tick)
      parts.append(SVG.line(left, y, right, y, opacity: 0.13))
      parts.append(SVG.text(left - 7, y + 3.8, plot.y.text(tick), anchor: "end", opacity: 0.75))
    }
    for guide in plot.guides where xScale.holds(guide) {
      parts.append(SVG.line(x(guide), top, x(guide), bottom, opacity: 0.4, dash: "2 3"))
    }
    parts += columnLabels
    parts.append(SVG.line(left, bottom, right, bottom, opacity: 0.6))
    parts.append(SVG.line(left, top, left, bottom, opacity: 0.6))
    parts.append(SVG.text((left + right) / 2, bottom + 36, plot.x.label, anchor: "middle"))
    if !plot.y.label.isEmpty {
      parts.append(
        SVG.text(14, (top + bottom) / 2, plot.y.label, anchor: "middle", rotation: -90))
    }
    if plot.hasDiagonal {
      let least = max(xScale.range.lowerBound, yScale.range.lowerBound)
      let most = min(xScale.range.upperBound, yScale.range.upperBound)
      if least < most {
        parts.append(SVG.line(x(least), y(least), x(most), y(most), opacity: 0.5, dash: "4 3"))
      }
    }
    return parts
  }

  /// The ticks below the area, with the labels that do not touch the one before.
  private var columnLabels: [String] {
    var parts: [String] = []
    var labelledUpTo = -Double.infinity
    for tick in xScale.ticks {
      let (position, label) = (x(tick), plot.x.text(tick))
      parts.append(SVG.line(position, bottom, position, bottom + 4, opacity: 0.6))
      let half = Double(label.count) * Plot.characterWidth / 2
      guard position - half > labelledUpTo else { continue }
      labelledUpTo = position + half + 5
      parts.append(SVG.text(position, bottom + 17, label, anchor: "middle", opacity: 0.75))
    }
    return parts
  }
}

/// The values beside the points of a plot, and the names at the ends of its lines.
struct PlotLabels {
  private struct Label {
    var series: Plot.Series
    var text: String
    var y: Double
  }

  let parts: [String]

  init(_ plot: Plot, _ frame: PlotFrame) {
    let places = plot.series.map(frame.places)
    var parts: [String] = []
    var ends: [Label] = []
    for (series, own) in zip(plot.series, places) {
      let colour = Plot.colour(series.number)
      for (number, place) in own.enumerated() {
        guard number < own.count - 1 else {
          let text = "\(plot.y.text(place.value)) \(series.name)"
          ends.append(Label(series: series, text: text, y: place.y))
          continue
        }
        // The highest line's values stand above it, the others' below: they never meet.
        let isHighest = places.allSatisfy { number >= $0.count || place.y <= $0[number].y }
        parts.append(
          SVG.text(
            place.x, place.y + (isHighest ? -8 : 16), plot.y.number(place.value), anchor: "middle",
            size: 10,
            colour: colour))
      }
    }
    ends.sort { $0.y < $1.y }
    for number in ends.indices.dropFirst() {
      ends[number].y = max(ends[number].y, ends[number - 1].y + 15)
    }
    parts += ends.map {
      SVG.text(
        frame.right + 2, $0.y + 4, $0.text, weight: 600, colour: Plot.colour($0.series.number))
    }
    self.parts = parts
  }
}
