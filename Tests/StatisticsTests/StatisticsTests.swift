import GranuleStatistics
import TestSupport
import Testing

@Suite("Statistics")
struct StatisticsTests {
  @Test("of columns agree with sums about the mean, however large the mean, in one batch or many")
  func moments() {
    let (rows, columns) = (700, 5)
    for mean in [Float(0), 1000] {
      var generator = SeededGenerator(seed: 3)
      let values = generator.normals(rows * columns).map { $0 + mean }
      var (means, total) = ([Double](repeating: 0, count: columns), 0.0)
      for (i, value) in values.enumerated() { means[i % columns] += Double(value) / Double(rows) }
      var spread = [Double](repeating: 0, count: columns)
      for (i, value) in values.enumerated() {
        let difference = Double(value) - means[i % columns]
        spread[i % columns] += difference * difference
        total += difference * difference
      }
      values.withUnsafeBufferPointer { values in
        let start = values.baseAddress!
        var moments = ColumnMoments(columns: columns)
        moments.add(start, rows: 1)
        moments.add(start + columns, rows: rows - 1)
        #expect(moments.rows == rows)
        #expect(abs(moments.variance / total - 1) < 1e-10)
        #expect(
          abs(ColumnMoments.variance(of: start, rows: rows, columns: columns) / total - 1) < 1e-6)
        for i in 0..<columns {
          #expect(abs(moments.means[i] - means[i]) < 1e-9)
        }
        var unshifted = ColumnMoments(columns: columns, isShifted: false)
        unshifted.add(start, rows: rows)
        for i in 0..<columns {
          let deviation = (spread[i] / Double(rows)).squareRoot()
          #expect(abs(unshifted.deviations[i] / deviation - 1) < 1e-6)
        }
        let mean = means.reduce(0, +) / Double(columns)
        let scalar = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
        #expect(abs(moments.scalarMeanVariance / scalar - 1) < 1e-9)
      }
    }
    // Losses are divided by it.
    #expect(ColumnMoments.variance(of: [1, 2, 1, 2], rows: 2, columns: 2) > 0)
  }

  @Test("of pairs are Pearson's, nil without variation, and the same in parts")
  func correlation() {
    let (xs, ys) = ([1.0, 2, 3, 4], [2.0, 1, 4, 3])
    #expect(abs(PearsonCorrelation(xs, ys).value! - 0.6) < 1e-12)
    #expect(PearsonCorrelation(xs, xs.map { -$0 }).value == -1)
    #expect(PearsonCorrelation([1, 2, 3], [5, 5, 5]).value == nil)
    #expect(PearsonCorrelation([], []).value == nil)
    var parts = PearsonCorrelation(shiftX: 2, shiftY: 2)
    var second = parts
    for (x, y) in zip(xs, ys).prefix(2) { parts.add(x, y) }
    for (x, y) in zip(xs, ys).dropFirst(2) { second.add(x, y) }
    parts.add(second)
    #expect(abs(parts.value! - 0.6) < 1e-12)
  }

  @Test("at shares of a series are its values, or lie between two of them")
  func quantiles() {
    let values = [1.0, 2, 4, 8]
    func quantile(_ share: Double) -> Double {
      Quantile.interpolated(share, count: values.count) { values[$0] }
    }
    #expect([0, 1.0 / 3, 0.5, 1].map(quantile) == [1, 2, 3, 8])
    #expect(Quantile.median([3, 1, 2]) == 2 && Quantile.median([4, 1, 2, 3]) == 3)
    #expect(Quantile.median([]) == nil)
  }
}
