internal import GranuleBLAS
internal import GranuleLanguageModel
internal import GranuleStatistics
internal import GranuleTensors
internal import GranuleThreads

/// Representational similarity analysis: how alike the geometry of samples is in two spaces, as the
/// Pearson correlation of the upper triangles of their Euclidean distance matrices (Kriegeskorte et
/// al. 2008, as in Progressive Coding for SAEs).
///
/// Time grows with the square of the samples, memory does not: no distance matrix is kept.
public struct RepresentationalSimilarity {
  /// The most samples: half a billion distances.
  public static let samplesMax = 32_768
  private static let tileRows = 128

  private let originals: Points

  /// - Parameter originals: [samples, d_model], finite.
  init(_ originals: FloatStorage, dModel: Int) {
    precondition(originals.count / dModel <= Self.samplesMax)
    self.originals = Points(originals, dModel: dModel)
  }

  /// The similarity of the originals and their reconstructions; nil if either's distances are all
  /// the same, or there are fewer than three samples.
  ///
  /// - Parameter reconstructions: shaped as the originals.
  func correlation(with reconstructions: FloatStorage) -> Double? {
    let others = Points(reconstructions, dModel: originals.dModel)
    precondition(others.count == originals.count)
    let count = originals.count
    let empty = PearsonCorrelation(
      shiftX: originals.typicalDistance, shiftY: others.typicalDistance)
    // A sum for each tile, added in order: the answer does not depend on which thread was first.
    var sums = [PearsonCorrelation](
      repeating: empty, count: (count + Self.tileRows - 1) / Self.tileRows)
    sums.withUnsafeMutableBufferPointer { sums in
      let sums = sums
      Parallel.forBlocks(count, size: Self.tileRows) { _, rows in
        var sum = empty
        originals.withSquaredDistances(rows) { squaredDistances in
          others.withSquaredDistances(rows) { otherSquaredDistances in
            for row in rows {
              for column in row + 1..<max(count, row + 1) {
                let position =
                  (row - rows.lowerBound) * (count - rows.lowerBound) + column
                  - rows.lowerBound
                sum.add(
                  squaredDistances[position].squareRoot(),
                  otherSquaredDistances[position].squareRoot())
              }
            }
          }
        }
        sums[rows.lowerBound / Self.tileRows] = sum
      }
    }
    return sums.reduce(into: empty) { $0.add($1) }.value
  }
}

/// Points in float64 around their mean, which changes no distance and keeps products small.
private struct Points {
  let dModel: Int
  let count: Int
  private let values: [Double]
  private let squaredNorms: [Double]

  init(_ points: FloatStorage, dModel: Int) {
    self.dModel = dModel
    count = points.count / dModel
    var values = points.values.map { Double($0) }
    var mean = [Double](repeating: 0, count: dModel)
    for position in values.indices { mean[position % dModel] += values[position] }
    for position in values.indices {
      values[position] -= mean[position % dModel] / Double(max(count, 1))
    }
    self.values = values
    squaredNorms = (0..<count).map { row in
      values[row * dModel..<(row + 1) * dModel].reduce(0) { $0 + $1 * $1 }
    }
  }

  /// Root of the mean squared distance, about.
  var typicalDistance: Double {
    (2 * squaredNorms.reduce(0, +) / Double(max(count, 1))).squareRoot()
  }

  /// Squared distances of some points from each other and from those after them: [rows.count,
  /// count − rows.lowerBound].
  func withSquaredDistances(
    _ rows: Range<Int>, _ body: (UnsafeMutableBufferPointer<Double>) -> Void
  ) {
    let columns = count - rows.lowerBound
    withUnsafeTemporaryAllocation(of: Double.self, capacity: rows.count * columns) { products in
      guard let output = products.baseAddress else { return }
      values.withUnsafeBufferPointer { values in
        let start = values.baseAddress! + rows.lowerBound * dModel
        BLAS.multiply(
          .init(start, stride: dModel), .init(start, stride: dModel, transposed: true),
          rows: rows.count, columns: columns, inner: dModel, into: output, stride: columns)
      }
      for row in 0..<rows.count {
        for column in 0..<columns {
          let position = row * columns + column
          // Rounding may leave what is zero slightly negative.
          output[position] = max(
            squaredNorms[rows.lowerBound + row] + squaredNorms[rows.lowerBound + column]
              - 2 * output[position], 0)
        }
      }
      body(products)
    }
  }
}
