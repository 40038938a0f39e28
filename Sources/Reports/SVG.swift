import Foundation

/// The SVG elements that plots are made of.
package enum SVG {
  /// A whole picture, which scales to the width of its place.
  static func picture(
    width: Double, height: Double, _ parts: [String], title: String
  ) -> String {
    """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(number(width)) \(number(height))" \
    role="img" aria-label="\(escaped(title))" fill="currentColor" font-size="11" \
    font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif">
    \(parts.joined(separator: "\n"))
    </svg>
    """
  }

  /// Plots in one picture, one below the other, on white.
  package static func column(_ plots: [Plot], title: String) -> String {
    let pictures = plots.map(\.picture)
    var top = 0.0
    var parts = ["<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"]
    for picture in pictures {
      let body = picture.body.joined(separator: "\n")
      parts.append("<g transform=\"translate(0 \(number(top)))\">\(body)</g>")
      top += picture.height + 12
    }
    return self.picture(
      width: pictures.map(\.width).max() ?? 0, height: top, parts, title: title)
  }

  static func text(
    _ x: Double, _ y: Double, _ text: String, anchor: String = "start", size: Double? = nil,
    weight: Int? = nil, opacity: Double = 1, rotation: Double? = nil, colour: String? = nil
  ) -> String {
    var attributes = #"x="\#(number(x))" y="\#(number(y))""#
    if anchor != "start" { attributes += #" text-anchor="\#(anchor)""# }
    if let size { attributes += #" font-size="\#(number(size))""# }
    if let weight { attributes += #" font-weight="\#(weight)""# }
    if let colour { attributes += #" fill="\#(colour)""# }
    if opacity < 1 { attributes += #" opacity="\#(opacity)""# }
    if let rotation {
      attributes += #" transform="rotate(\#(number(rotation)) \#(number(x)) \#(number(y)))""#
    }
    return "<text \(attributes)>\(escaped(text))</text>"
  }

  static func line(
    _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, opacity: Double, dash: String? = nil,
    colour: String = "currentColor", width: Double = 1
  ) -> String {
    """
    <line x1="\(number(x1))" y1="\(number(y1))" x2="\(number(x2))" y2="\(number(y2))" \
    stroke="\(colour)" stroke-width="\(number(width))"\(opacity < 1 ? #" opacity="\#(opacity)""# : "")\
    \(dash.map { #" stroke-dasharray="\#($0)""# } ?? "")/>
    """
  }

  /// A length with one digit after the point, which is finer than a line's width by far.
  static func number(_ value: Double) -> String {
    let rounded = (value * 10).rounded() / 10
    return rounded == rounded.rounded() ? String(Int(rounded)) : String(rounded)
  }

  /// Text escaped for SVG and HTML, including attributes.
  static func escaped(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;")
      .replacingOccurrences(of: "<", with: "&lt;")
      .replacingOccurrences(of: "\"", with: "&quot;")
  }
}
