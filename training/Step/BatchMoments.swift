internal import CGranuleKernels
internal import GranuleTensors
internal import GranuleThreads

/// Sums over a batch's rows, on all cores.
enum BatchMoments {
  /// Rows that are summed one after the other: whatever the number of threads.
  private static let blockRows = 256

  /// Σ‖x − x̄‖² over rows, x̄ the mean row; never 0, since losses are divided by it.
  static func variance(of rows: UnsafePointer<Float>, rows count: Int, columns: Int) -> Double {
    let blocks = (count + blockRows - 1) / blockRows
    var sums = [Double](repeating: 0, count: blocks * columns)
    var squares = sums
    sums.withUnsafeMutableBufferPointer { sums in
      squares.withUnsafeMutableBufferPointer { squares in
        let (sums, squares) = (sums, squares)
        Parallel.forBlocks(blocks, size: 1) { _, range in
          for block in range {
            let start = block * blockRows
            // Shifted by the first row, so that a large mean costs no digits.
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
