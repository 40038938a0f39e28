internal import GranuleBLAS

/// Linear regression that says what the data cannot tell.
struct LeastSquares {
  /// The coefficient of each column; nil if the column is a combination of those before it.
  let coefficients: [Double?]
  /// Their standard errors, from the residuals; nil also if there are no more points than
  /// coefficients.
  let standardErrors: [Double?]
  /// 1 − Σ(y − ŷ)² / Σ(y − ȳ)²; nil if y does not vary.
  let rSquared: Double?

  /// Less than this share of a column that is left beside the columns before it is rounding.
  private static let dependent = 1e-9

  /// Fits y ≈ Σ c_i · column_i. An intercept is a column of ones.
  ///
  /// - Precondition: columns and y are of one length.
  init(columns: [[Double]], _ y: [Double]) {
    let lengths = columns.map { Self.squares($0).squareRoot() }
    var kept = Array(columns.indices)
    var fit: BLAS.Regression?
    // Leaves the first dependent column out until there is none; with more columns than points, some always are.
    while true {
      let tried = Array(kept.prefix(y.count))
      fit = tried.isEmpty ? nil : BLAS.regression(columns: tried.map { columns[$0] }, y)
      let rests = fit?.restLengths ?? []
      let first = tried.indices.first { !(rests[$0] > Self.dependent * lengths[tried[$0]]) }
      guard let first else {
        kept = tried
        break
      }
      kept.remove(at: first)
    }

    let residual = fit?.squaredResidual ?? Self.squares(y)
    let freedom = y.count - kept.count
    var coefficients = [Double?](repeating: nil, count: columns.count)
    var standardErrors = coefficients
    if let fit {
      for (position, number) in kept.enumerated() {
        coefficients[number] = fit.coefficients[position]
        if freedom > 0 {
          standardErrors[number] =
            (residual / Double(freedom) * fit.inverseDiagonal[position]).squareRoot()
        }
      }
    }
    self.coefficients = coefficients
    self.standardErrors = standardErrors
    let mean = y.reduce(0, +) / Double(max(y.count, 1))
    let variance = y.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    rSquared = variance > 0 ? 1 - residual / variance : nil
  }

  private static func squares(_ values: [Double]) -> Double {
    values.reduce(0) { $0 + $1 * $1 }
  }
}
