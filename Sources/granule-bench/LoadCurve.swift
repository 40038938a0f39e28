import GranuleFiles
import GranuleReports

/// The answers of a server at each load that it was offered, as a table, JSON and a picture.
struct LoadCurve {
  /// One load, offered by one kind of client.
  struct Point {
    /// The load, as a multiple of the capacity.
    var load: Double
    /// The least granularity that the clients accepted; nil if only the one that they asked for.
    var minGranularity: Int?
    /// Tokens a second.
    var offered: Double
    /// Tokens a second that were answered while the load lasted.
    var goodput: Double
    /// Requests.
    var answered: Int
    var refused: Int
    /// Seconds from the moment when a request was due to its answer; nil without answers.
    var p50: Double?
    var p99: Double?
    var meanGranularity: Double
  }

  var points: [Point]

  var table: String {
    var table = TextTable(
      "load", "allowed from", "offered tokens/s", "goodput", "refused", "p50 ms", "p99 ms",
      "mean granularity")
    func milliseconds(_ seconds: Double?) -> String {
      seconds.map { ($0 * 1e3).formatted(digits: 1) } ?? "–"
    }
    for point in points {
      table.add(
        point.load.formatted(digits: 2), point.minGranularity?.grouped ?? "–",
        Int(point.offered).grouped, Int(point.goodput).grouped, point.refused.grouped,
        milliseconds(point.p50), milliseconds(point.p99), Int(point.meanGranularity).grouped)
    }
    return table.text
  }

  var json: JSONValue {
    .array(
      points.map { point in
        [
          "load": .real(point.load),
          "min_granularity": point.minGranularity.map { JSONValue($0) } ?? .null,
          "offered_tokens_per_second": .real(point.offered),
          "goodput_tokens_per_second": .real(point.goodput),
          "answered": JSONValue(point.answered), "refused": JSONValue(point.refused),
          "p50_seconds": point.p50.map { .real($0) } ?? .null,
          "p99_seconds": point.p99.map { .real($0) } ?? .null,
          "mean_granularity": .real(point.meanGranularity),
        ]
      })
  }

  /// Goodput, latency and granularity against load, one below the other.
  func svg(title: String) -> String {
    SVG.column(
      [
        figure("\(title): goodput, tokens/s", "tokens/s", [("goodput", \.goodput)]),
        figure(
          "Latency, ms", "ms",
          [("p50", { $0.p50.map { $0 * 1e3 } }), ("p99", { $0.p99.map { $0 * 1e3 } })],
          isLogarithmic: true),
        figure("Mean granularity", "latents", [("granularity", \.meanGranularity)]),
      ], title: title)
  }

  private func figure(
    _ title: String, _ label: String, _ values: [(name: String, of: (Point) -> Double?)],
    isLogarithmic: Bool = false
  ) -> Plot {
    var series: [Plot.Series] = []
    for (kind, minGranularity) in kinds.enumerated() {
      for (place, value) in values.enumerated() {
        let clients = minGranularity.map { "allowed from \($0.grouped)" } ?? "as asked"
        series.append(
          Plot.Series(
            name: values.count > 1 ? "\(value.name), \(clients)" : clients,
            points: points.filter { $0.minGranularity == minGranularity }.compactMap { point in
              value.of(point).map { (point.load, $0) }
            }, number: kind, isDashed: place > 0))
      }
    }
    return Plot(
      title: title, x: .init(label: "offered load, × capacity"),
      y: .init(label: label, isLogarithmic: isLogarithmic), series: series)
  }

  private var kinds: [Int?] {
    points.reduce(into: []) { kinds, point in
      if !kinds.contains(point.minGranularity) { kinds.append(point.minGranularity) }
    }
  }
}
