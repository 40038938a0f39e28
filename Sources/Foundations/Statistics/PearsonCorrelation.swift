/// Pearson's correlation of pairs that come one after the other.
package struct PearsonCorrelation: Sendable {
  @usableFromInline let (shiftX, shiftY): (Double, Double)
  @usableFromInline var count = 0.0
  @usableFromInline var (sumX, sumY, sumXX, sumYY, sumXY) = (0.0, 0.0, 0.0, 0.0, 0.0)

  /// No pairs yet.
  ///
  /// - Parameters: values near the means, against cancellation.
  package init(shiftX: Double, shiftY: Double) { (self.shiftX, self.shiftY) = (shiftX, shiftY) }

  /// The correlation of whole series.
  package init(_ xs: [Double], _ ys: [Double]) {
    self.init(shiftX: xs.first ?? 0, shiftY: ys.first ?? 0)
    for (x, y) in zip(xs, ys) { add(x, y) }
  }

  /// Adds a pair.
  @inlinable
  package mutating func add(_ x: Double, _ y: Double) {
    let (x, y) = (x - shiftX, y - shiftY)
    count += 1
    sumX += x
    sumY += y
    sumXX += x * x
    sumYY += y * y
    sumXY += x * y
  }

  /// Adds the pairs of another with the same shifts.
  package mutating func add(_ other: PearsonCorrelation) {
    precondition(shiftX == other.shiftX && shiftY == other.shiftY)
    count += other.count
    sumX += other.sumX
    sumY += other.sumY
    sumXX += other.sumXX
    sumYY += other.sumYY
    sumXY += other.sumXY
  }

  /// −1 … 1; nil if one of the two does not vary beyond rounding.
  package var value: Double? {
    let varianceX = sumXX - sumX * sumX / count
    let varianceY = sumYY - sumY * sumY / count
    guard count > 1, varianceX > 1e-13 * sumXX, varianceY > 1e-13 * sumYY else { return nil }
    let covariance = sumXY - sumX * sumY / count
    return min(max(covariance / (varianceX * varianceY).squareRoot(), -1), 1)
  }
}
