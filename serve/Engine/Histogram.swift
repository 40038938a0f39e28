/// Counts of values by range, as Prometheus defines them.
package struct Histogram: Sendable {
  /// Upper ends of the ranges, ascending; each end belongs to its range. Values above all of them are
  /// counted too.
  package let bounds: [Double]
  /// Number of values in each range; the last range has no upper end.
  package private(set) var counts: [UInt64]
  /// Sum of all values.
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
