import Foundation

#if canImport(FoundationXML)
  import FoundationXML
#endif

/// A figure of `granule evaluate --html` as a person reads it: what the axes are called, and which
/// values the lines and circles stand for, by the numbers beside the axes.
final class DrawnFigure: NSObject, XMLParserDelegate {
  private struct Text {
    var (x, y) = (0.0, 0.0)
    var anchor = ""
    var isUpright = true
    var content = ""
  }
  private(set) var title = ""
  private var texts: [Text] = []
  private var isInText = false
  private var polylines: [[(x: Double, y: Double)]] = []
  private var centres: [(x: Double, y: Double)] = []

  /// Reads a figure, from `<svg` to `</svg>`; nil if it is not XML.
  init?(svg: String) {
    super.init()
    let parser = XMLParser(data: Data(svg.utf8))
    parser.delegate = self
    guard parser.parse() else { return nil }
  }

  func parser(
    _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
    qualifiedName: String?, attributes: [String: String]
  ) {
    func number(_ name: String) -> Double { attributes[name].flatMap { Double($0) } ?? .nan }
    isInText = name == "text"
    switch name {
    case "svg": title = attributes["aria-label"] ?? ""
    case "text":
      texts.append(
        Text(
          x: number("x"), y: number("y"), anchor: attributes["text-anchor"] ?? "",
          isUpright: attributes["transform"] == nil))
    case "polyline":
      polylines.append(
        (attributes["points"] ?? "").split(separator: " ").map { point in
          let parts = point.split(separator: ",").map { Double($0) ?? .nan }
          return (parts[0], parts[1])
        })
    case "circle": centres.append((number("cx"), number("cy")))
    default: break
    }
  }

  func parser(
    _ parser: XMLParser, didEndElement name: String, namespaceURI: String?, qualifiedName: String?
  ) {
    isInText = false
  }

  func parser(_ parser: XMLParser, foundCharacters string: String) {
    if isInText { texts[texts.count - 1].content += string }
  }

  /// What the upright axis is called.
  var yLabel: String { texts.first { !$0.isUpright }?.content ?? "" }

  /// The points of each line, in the axes' values; both axes are logarithmic.
  func lines() -> [[(x: Double, y: Double)]] { polylines.map { $0.map(value) } }

  /// The points that circles mark, in the axes' values; both axes are logarithmic.
  func circles() -> [(x: Double, y: Double)] { centres.map(value) }

  private func value(_ place: (x: Double, y: Double)) -> (x: Double, y: Double) {
    // Labels stand to the left of the upright axis, and centred below the other.
    let left = texts.filter { $0.anchor == "end" }.map { ($0.y - 3.8, $0.content) }
    let below = texts.filter { $0.anchor == "middle" && $0.isUpright }.map { ($0.x, $0.content) }
    return (Self.value(place.x, below), Self.value(place.y, left))
  }

  /// The value at a place of a logarithmic axis, by its outermost labels.
  private static func value(_ place: Double, _ labels: [(place: Double, text: String)]) -> Double {
    let known = labels.compactMap { label in number(label.text).map { (label.place, log($0)) } }
      .sorted { $0.0 < $1.0 }
    guard let first = known.first, let last = known.last, first.0 < last.0 else { return .nan }
    return exp(first.1 + (place - first.0) / (last.0 - first.0) * (last.1 - first.1))
  }

  /// The number that a label shows: 0.05, 1,024, 10⁻⁶, 2·10⁻³; nil if it shows none.
  private static func number(_ label: String) -> Double? {
    let digits = Array("⁰¹²³⁴⁵⁶⁷⁸⁹")
    let parts = label.replacingOccurrences(of: ",", with: "").components(separatedBy: "·")
    var product = 1.0
    for part in parts {
      let power = part.drop { $0.isASCII }
      if part.hasPrefix("10"), !power.isEmpty {
        let text = power.map { $0 == "⁻" ? "-" : digits.firstIndex(of: $0).map { "\($0)" } ?? "?" }
        guard let exponent = Double(text.joined()) else { return nil }
        product *= pow(10, exponent)
      } else {
        guard let factor = Double(part) else { return nil }
        product *= factor
      }
    }
    return product
  }
}
