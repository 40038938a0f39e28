/// The largest difference between two series, as a share of the largest expected magnitude; infinite
/// if a value is missing or the lengths differ.
public func relativeDifference(_ got: [Double?], _ expected: [Double]) -> Double {
  guard got.count == expected.count else { return .infinity }
  let largest = expected.map(abs).max() ?? 0
  let difference = zip(got, expected).map { abs(($0 ?? .infinity) - $1) }.max() ?? 0
  return difference == 0 ? 0 : difference / largest
}
