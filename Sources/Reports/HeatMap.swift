/// A matrix whose cells are the stronger in colour the larger their number, drawn as SVG.
struct HeatMap {
  var title: String
  /// Below the matrix.
  var columnLabel: String
  /// Beside the matrix.
  var rowLabel: String
  /// Names of the rows, and of the columns.
  var names: [String]
  /// [rows, columns]; a row may be shorter, and nil is shown as a dash.
  var values: [[Double?]]
  /// The value drawn without colour, and the one in full colour; values beyond are drawn as these.
  var range: ClosedRange<Double>

  /// The picture as a file's text.
  var svg: String {
    let (left, top, right, bottom) = (104.0, 34.0, 446.0, 276.0)
    let (width, height) = (
      (right - left) / Double(max(names.count, 1)), (bottom - top) / Double(max(names.count, 1))
    )
    var body = [SVG.text(62, 20, title, size: 13.5, weight: 600)]
    for (row, values) in values.enumerated() {
      let y = top + Double(row) * height
      body.append(
        SVG.text(left - 7, y + height / 2 + 3.8, names[row], anchor: "end", opacity: 0.75))
      for (column, value) in values.enumerated() {
        let x = left + Double(column) * width
        let span = range.upperBound - range.lowerBound
        let strength = value.map { min(max(($0 - range.lowerBound) / span, 0), 1) } ?? 0
        body.append(
          """
          <rect x="\(SVG.number(x + 0.5))" y="\(SVG.number(y + 0.5))" \
          width="\(SVG.number(width - 1))" height="\(SVG.number(height - 1))" \
          fill="\(Plot.colours[0])" fill-opacity="\((strength * 100).rounded() / 100)"/>
          """)
        if width > 26 {
          body.append(
            SVG.text(
              x + width / 2, y + height / 2 + 3.8, value?.formatted(digits: 2) ?? "–",
              anchor: "middle", size: 10.5))
        }
      }
    }
    for (column, name) in names.enumerated() {
      body.append(
        SVG.text(
          left + (Double(column) + 0.5) * width, bottom + 17, name, anchor: "middle", size: 9.5,
          opacity: 0.75))
    }
    body.append(SVG.text((left + right) / 2, bottom + 36, columnLabel, anchor: "middle"))
    body.append(SVG.text(14, (top + bottom) / 2, rowLabel, anchor: "middle", rotation: -90))
    return SVG.picture(width: 460, height: 328, body, title: title)
  }
}
