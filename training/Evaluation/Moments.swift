/// Sums over rows for both readings of the variance, shifted by the first row against cancellation.
struct Moments {
  private var shift: [Double] = []
  private var sums: [Double]
  private var squares: [Double]
  private var rows = 0

  init(dModel: Int) {
    sums = [Double](repeating: 0, count: dModel)
    squares = [Double](repeating: 0, count: dModel)
  }

  /// Adds rows of d_model values.
  mutating func add(_ values: UnsafePointer<Float>, rows newRows: Int) {
    let dModel = sums.count
    if shift.isEmpty { shift = (0..<dModel).map { Double(values[$0]) } }
    for row in 0..<newRows {
      for i in 0..<dModel {
        let value = Double(values[row * dModel + i]) - shift[i]
        sums[i] += value
        squares[i] += value * value
      }
    }
    rows += newRows
  }

  /// Σ‖x − x̄‖², x̄ the mean row.
  var variance: Double {
    zip(sums, squares).reduce(0) { $0 + $1.1 - $1.0 * $1.0 / Double(rows) }
  }

  /// The mean row.
  var means: [Double] { zip(sums, shift).map { $0 / Double(rows) + $1 } }

  /// Σ‖x − x̄‖² with one mean x̄ of all rows and dimensions.
  var scalarMeanVariance: Double {
    let means = means
    let mean = means.reduce(0, +) / Double(means.count)
    return variance + Double(rows) * means.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
  }
}
