/// Values at a share of a series in ascending order.
package enum Quantile {
  /// The value at `share`, 0 … 1, of `count` ≥ 1 ascending values, linearly interpolated between the
  /// nearest ranks.
  ///
  /// - Parameter value: the value of a rank, 0 ..< `count`.
  package static func interpolated(
    _ share: Double, count: Int, value: (_ rank: Int) -> Double
  ) -> Double {
    let place = share * Double(count - 1)
    let below = Int(place)
    let above = min(below + 1, count - 1)
    return value(below) + (place - Double(below)) * (value(above) - value(below))
  }

  /// The median, the upper one of two; nil if there are no values.
  package static func median(_ values: [Double]) -> Double? {
    values.isEmpty ? nil : values.sorted()[values.count / 2]
  }
}
