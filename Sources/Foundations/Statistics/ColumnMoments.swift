internal import CGranuleKernels
internal import GranuleThreads

/// Sums and sums of squares of the columns of rows that come one after the other.
package struct ColumnMoments: Sendable {
  /// What is subtracted from every row, against cancellation; empty until there is a row.
  private var shift: [Double]
  private var sums: [Double]
  private var squares: [Double]
  /// Number of rows.
  package private(set) var rows = 0

  /// No rows yet.
  ///
  /// - Parameter isShifted: subtract the first row from all, so that a large mean costs no digits.
  package init(columns: Int, isShifted: Bool = true) {
    shift = isShifted ? [] : [Double](repeating: 0, count: columns)
    sums = [Double](repeating: 0, count: columns)
    squares = [Double](repeating: 0, count: columns)
  }

  /// Adds rows, one after the other: `values` is [newRows, columns].
  package mutating func add(_ values: UnsafePointer<Float>, rows newRows: Int) {
    let columns = sums.count
    if shift.isEmpty { shift = (0..<columns).map { Double(values[$0]) } }
    for row in 0..<newRows {
      for i in 0..<columns {
        let value = Double(values[row * columns + i]) - shift[i]
        sums[i] += value
        squares[i] += value * value
      }
    }
    rows += newRows
  }

  /// Σ‖x − x̄‖², x̄ the mean row.
  package var variance: Double {
    zip(sums, squares).reduce(0) { $0 + $1.1 - $1.0 * $1.0 / Double(rows) }
  }

  /// The mean row: [columns].
  package var means: [Double] { zip(sums, shift).map { $0 / Double(rows) + $1 } }

  /// The standard deviation of each column: [columns].
  package var deviations: [Double] {
    zip(sums, squares).map { sum, square in
      let mean = sum / Double(rows)
      return max(square / Double(rows) - mean * mean, 0).squareRoot()
    }
  }

  /// Σ‖x − x̄‖² with one mean x̄ of all rows and columns.
  package var scalarMeanVariance: Double {
    let means = means
    let mean = means.reduce(0, +) / Double(means.count)
    return variance + Double(rows) * means.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
  }

  // MARK: A whole batch at once

  /// Rows of a batch that are summed one after the other, whatever the number of threads.
  private static let blockRows = 256

  /// Σ‖x − x̄‖² over a batch of rows, x̄ the mean row, on all cores; never 0, since losses are divided
  /// by it. `rows` is [count, columns].
  package static func variance(
    of rows: UnsafePointer<Float>, rows count: Int, columns: Int
  ) -> Double {
    let blocks = (count + blockRows - 1) / blockRows
    var sums = [Double](repeating: 0, count: blocks * columns)
    var squares = sums
    sums.withUnsafeMutableBufferPointer { sums in
      squares.withUnsafeMutableBufferPointer { squares in
        let (sums, squares) = (sums, squares)
        Parallel.forBlocks(blocks, size: 1) { _, range in
          for block in range {
            let start = block * blockRows
            gk_column_moments(
              rows + start * columns, min(blockRows, count - start), columns, rows,
              sums.baseAddress! + block * columns, squares.baseAddress! + block * columns)
          }
        }
      }
    }
    var total = 0.0
    for i in 0..<columns {
      var (sum, square) = (0.0, 0.0)
      for block in 0..<blocks {
        sum += sums[block * columns + i]
        square += squares[block * columns + i]
      }
      total += square - sum * sum / Double(max(count, 1))
    }
    return max(total, Double(Float.leastNormalMagnitude))
  }
}
