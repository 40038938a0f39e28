/// How often values fell into ranges, as Prometheus counts them.
package struct Histogram: Sendable {
  /// The ranges' upper ends, ascending, each within its range; what is above all of them is counted
  /// too.
  package let bounds: [Double]
  /// Values in each range; the last one has no upper end.
  package private(set) var counts: [UInt64]
  /// Of all values.
  package private(set) var sum = 0.0

  /// No values yet.
  package init(bounds: [Double]) {
    self.bounds = bounds
    counts = Array(repeating: 0, count: bounds.count + 1)
  }

  /// Counts a value.
  package mutating func record(_ value: Double) {
    counts[bounds.firstIndex { value <= $0 } ?? bounds.count] += 1
    sum += value
  }
}
