internal import Glibc

/// A power law value ≈ c · rank^exponent, fitted to sorted values as a line in log–log space over a
/// middle range of ranks: heads are flatter and tails steeper (Progressive Coding for SAEs, section
/// on dictionary power laws, whose range is not stated).
public struct PowerLaw: Sendable {
  /// The slope of the line; negative.
  public let exponent: Double
  /// c, the line's value at rank 1.
  public let coefficient: Double
  /// The share of the logarithms' variance that the line explains; nil if they do not vary.
  public let rSquared: Double?
  /// The ranks that were fitted, counted from 1.
  public let ranks: ClosedRange<Int>

  /// The ranks that are fitted unless the caller says others, as shares of those above zero.
  public static let defaultMiddle = 0.01...0.5

  /// Fits `values` in descending order, those above zero only; nil if fewer than three ranks are
  /// in the range.
  ///
  /// - Parameter middle: first and last rank as shares, within 0 … 1, of the values above zero.
  public init?(_ values: [Double], middle: ClosedRange<Double> = defaultMiddle) {
    let sorted = values.filter { $0 > 0 }.sorted(by: >)
    let first = max(1, Int((middle.lowerBound * Double(sorted.count)).rounded(.up)))
    let last = Int((middle.upperBound * Double(sorted.count)).rounded(.down))
    guard last >= first + 2 else { return nil }
    let ranks = first...last
    let line = LeastSquares(
      columns: [ranks.map { _ in 1 }, ranks.map { log(Double($0)) }],
      ranks.map { log(sorted[$0 - 1]) })
    guard let intercept = line.coefficients[0], let exponent = line.coefficients[1] else {
      return nil
    }
    self.exponent = exponent
    coefficient = exp(intercept)
    rSquared = line.rSquared
    self.ranks = ranks
  }

  /// The law's value at a rank.
  public func callAsFunction(rank: Int) -> Double { coefficient * pow(Double(rank), exponent) }
}
