package import GranuleEngine

/// Writes Prometheus's text format, version 0.0.4.
package struct PrometheusText {
  /// The text so far.
  package private(set) var text = ""

  /// Value of the Content-Type header.
  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  /// Labels of a sample, in the order to write them.
  package typealias Labels = KeyValuePairs<String, String>

  /// The kinds of metric.
  package enum Kind: String {
    /// Only rises.
    case counter
    /// Rises and falls.
    case gauge
    /// A distribution.
    case histogram
  }

  /// Nothing yet.
  package init() {}

  /// Begins a metric; its samples come next.
  package mutating func metric(_ name: String, _ kind: Kind, _ help: String) {
    text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
  }

  /// A sample of a counter or a gauge.
  package mutating func sample(_ name: String, _ labels: Labels, _ value: Double) {
    text += "\(name)\(Self.braces(labels)) \(Self.number(value))\n"
  }

  /// A metric that has one sample without labels.
  package mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: Double) {
    metric(name, kind, help)
    sample(name, [:], value)
  }

  /// The samples of a histogram.
  package mutating func samples(_ name: String, _ labels: Labels, _ histogram: Histogram) {
    var count: UInt64 = 0
    for (index, inRange) in histogram.counts.enumerated() {
      count += inRange
      let bound = index < histogram.bounds.count ? Self.number(histogram.bounds[index]) : "+Inf"
      text += "\(name)_bucket\(Self.braces(labels, ("le", bound))) \(count)\n"
    }
    text += "\(name)_sum\(Self.braces(labels)) \(Self.number(histogram.sum))\n"
    text += "\(name)_count\(Self.braces(labels)) \(count)\n"
  }

  private static func braces(_ labels: Labels, _ last: (String, String)? = nil) -> String {
    var pairs = labels.map { "\($0.key)=\"\(escaped($0.value, quotes: true))\"" }
    if let last { pairs.append("\(last.0)=\"\(last.1)\"") }
    return pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}"
  }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    var escaped = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case "\"" where quotes: escaped += "\\\""
      default: escaped.unicodeScalars.append(scalar)
      }
    }
    return escaped
  }

  private static func number(_ value: Double) -> String {
    if let whole = Int(exactly: value) { return "\(whole)" }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    return value.isNaN ? "NaN" : "\(value)"
  }
}
