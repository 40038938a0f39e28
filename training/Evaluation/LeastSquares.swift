/// Linear regression by orthogonalised columns, which says what the data cannot tell.
struct LeastSquares {
  /// The coefficient of each column; nil where the column is a combination of those before it.
  let coefficients: [Double?]
  /// Their standard errors, from the residuals; nil also where there are no more points than
  /// coefficients.
  let standardErrors: [Double?]
  /// 1 − Σ(y − ŷ)² / Σ(y − ȳ)²; nil where y does not vary.
  let rSquared: Double?

  /// Less than this share of a column that is left beside the columns before it is rounding.
  private static let dependent = 1e-9

  /// Fits y ≈ Σ c_i · column_i. An intercept is a column of ones.
  ///
  /// - Precondition: columns and y are of one length.
  init(columns: [[Double]], _ y: [Double]) {
    // Modified Gram–Schmidt, each column orthogonalised twice: Q, and R of the kept columns.
    var basis: [[Double]] = []
    var kept: [Int] = []
    var triangle: [[Double]] = []
    for (number, column) in columns.enumerated() {
      precondition(column.count == y.count)
      var rest = column
      var entries = [Double](repeating: 0, count: basis.count)
      for _ in 0..<2 {
        for (position, direction) in basis.enumerated() {
          let share = Self.dot(direction, rest)
          entries[position] += share
          for i in rest.indices { rest[i] -= share * direction[i] }
        }
      }
      let length = Self.dot(rest, rest).squareRoot()
      guard length > Self.dependent * Self.dot(column, column).squareRoot() else { continue }
      basis.append(rest.map { $0 / length })
      triangle.append(entries + [length])
      kept.append(number)
    }

    var rest = y
    var projections: [Double] = []
    for direction in basis {
      let share = Self.dot(direction, rest)
      projections.append(share)
      for i in rest.indices { rest[i] -= share * direction[i] }
    }
    let inverse = Self.inverse(triangle)
    let residual = Self.dot(rest, rest)
    let freedom = y.count - kept.count
    var coefficients = [Double?](repeating: nil, count: columns.count)
    var standardErrors = coefficients
    for (position, number) in kept.enumerated() {
      let row = inverse[position]
      coefficients[number] = Self.dot(row, projections)
      if freedom > 0 {
        standardErrors[number] = (residual / Double(freedom) * Self.dot(row, row)).squareRoot()
      }
    }
    self.coefficients = coefficients
    self.standardErrors = standardErrors
    let mean = y.reduce(0, +) / Double(max(y.count, 1))
    let variance = y.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    rSquared = variance > 0 ? 1 - residual / variance : nil
  }

  /// R⁻¹ by rows, where `triangle[j]` holds column j of R down to its diagonal.
  private static func inverse(_ triangle: [[Double]]) -> [[Double]] {
    let size = triangle.count
    var inverse = [[Double]](repeating: [Double](repeating: 0, count: size), count: size)
    for column in 0..<size {
      for row in stride(from: column, through: 0, by: -1) {
        var sum = row == column ? 1.0 : 0
        for next in row + 1..<max(column + 1, row + 1) {
          sum -= triangle[next][row] * inverse[next][column]
        }
        inverse[row][column] = sum / triangle[row][row]
      }
    }
    return inverse
  }

  private static func dot(_ left: [Double], _ right: [Double]) -> Double {
    zip(left, right).reduce(0) { $0 + $1.0 * $1.1 }
  }
}
