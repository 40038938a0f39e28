import Foundation
import GranuleReports
import Testing

#if canImport(FoundationXML)
  import FoundationXML
#endif

/// The elements of a picture.
private final class Picture: NSObject, XMLParserDelegate {
  private(set) var texts: [(text: String, x: Double, y: Double)] = []
  private(set) var lines: [[(x: Double, y: Double)]] = []
  private(set) var width = 0.0
  private(set) var height = 0.0
  private var place: (Double, Double)?

  init(_ svg: String) throws {
    super.init()
    let parser = XMLParser(data: Data(svg.utf8))
    parser.delegate = self
    try #require(parser.parse(), "\(svg)")
  }

  func parser(
    _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
    qualifiedName: String?, attributes: [String: String] = [:]
  ) {
    func number(_ key: String) -> Double { attributes[key].flatMap { Double($0) } ?? .nan }
    switch name {
    case "svg":
      let box = (attributes["viewBox"] ?? "").split(separator: " ").compactMap { Double($0) }
      if box.count == 4 { (width, height) = (box[2], box[3]) }
    case "text":
      place = (number("x"), number("y"))
      texts.append(("", number("x"), number("y")))
    case "polyline":
      lines.append(
        (attributes["points"] ?? "").split(separator: " ").map { point in
          let parts = point.split(separator: ",").compactMap { Double($0) }
          return (parts[0], parts[1])
        })
    default: break
    }
  }

  func parser(_ parser: XMLParser, foundCharacters string: String) {
    if place != nil { texts[texts.count - 1].text += string }
  }

  func parser(
    _ parser: XMLParser, didEndElement name: String, namespaceURI: String?,
    qualifiedName: String?
  ) {
    if name == "text" { place = nil }
  }

  func text(_ text: String) -> (text: String, x: Double, y: Double)? {
    texts.first { $0.text == text }
  }
}

@Suite("Plots")
struct PlotTests {
  @Test("values lie where the labels of the axes say, on linear and logarithmic axes")
  func places() throws {
    let plot = Plot(
      title: "T", x: .init(label: "x", isLogarithmic: true, ticks: [1, 10, 100]),
      y: .init(label: "y", ticks: [0, 5]),
      series: [.init(name: "a", points: [(1, 0), (10, 5), (100, 2.5)])])
    let picture = try Picture(plot.svg)
    let line = try #require(picture.lines.first)
    for (number, tick) in ["1", "10", "100"].enumerated() {
      #expect(abs(try #require(picture.text(tick)).x - line[number].x) < 0.2)
    }
    // Labels stand a little below the line that they name.
    let (zero, five) = (try #require(picture.text("0")), try #require(picture.text("5")))
    #expect(abs(zero.y - line[0].y - 3.8) < 0.2 && abs(five.y - line[1].y - 3.8) < 0.2)
    #expect(abs(line[2].y - (line[0].y + line[1].y) / 2) < 0.2)
  }

  @Test("values that an axis cannot show are left out, and nothing is drawn as NaN")
  func unshown() throws {
    let plot = Plot(
      title: "<T & \"t\">", x: .init(label: "x", isLogarithmic: true), y: .init(label: "y"),
      series: [.init(name: "a", points: [(0, 1), (1, 1), (2, .nan), (3, .infinity), (4, 2)])])
    #expect(!plot.svg.contains("nan") && !plot.svg.contains("inf"))
    let picture = try Picture(plot.svg)
    #expect(picture.lines.first?.count == 2)
    #expect(picture.text("<T & \"t\">") != nil)
  }

  @Test("a legend names several series, and none names a single one")
  func legend() throws {
    func plot(_ names: [String]) -> Plot {
      Plot(
        title: "T", x: .init(label: "x"), y: .init(label: "y"),
        series: names.map { .init(name: $0, points: [(0, 1), (1, 2)]) })
    }
    let several = try Picture(plot(["first", "second", ""]).svg)
    #expect(several.text("first") != nil && several.text("second") != nil)
    #expect(try Picture(plot(["first"]).svg).text("first") == nil)
  }

  @Test(
    "fidelity and cost are labelled at the lines' ends, apart from each other and inside the picture",
    arguments: [(0.87, 1.0), (0.99, 1.0), (1.0, 1.0), (0.4, 0.5)])
  func granularities(explained: Double, cost: Double) throws {
    let plot = Plot.granularities(
      subtitle: "m, 1,000 tokens",
      [512, 1024, 2048, 8192].enumerated().map { number, granularity in
        let share = Double(number + 1) / 4
        return Plot.GranularityPoint(
          granularity: granularity, explained: explained * share.squareRoot(), cost: cost * share)
      })
    let picture = try Picture(plot.svgOnWhite)
    let ends = picture.texts.filter {
      $0.text.contains("variance explained") || $0.text.contains("compute time")
    }
    try #require(ends.count == 2)
    #expect(
      ends[0].text.hasPrefix("\(Int((100 * explained).rounded())) %")
        || ends[1].text.hasPrefix("\(Int((100 * explained).rounded())) %"))
    #expect(abs(ends[0].y - ends[1].y) >= 14.9)
    for end in ends {
      #expect(end.x + 6.1 * Double(end.text.count) < picture.width)
      #expect(end.y < picture.height)
    }
    for granularity in ["512", "1,024", "2,048", "8,192"] {
      #expect(picture.text(granularity) != nil)
    }
  }

  @Test("a column of plots is as high as all of them")
  func column() throws {
    let plot = Plot(
      title: "T", x: .init(label: "x"), y: .init(label: "y"),
      series: [.init(name: "a", points: [(0, 1), (1, 2)])])
    let one = try Picture(SVG.column([plot], title: "one"))
    let two = try Picture(SVG.column([plot, plot], title: "two"))
    #expect(two.height == 2 * one.height && two.width == one.width)
  }
}
