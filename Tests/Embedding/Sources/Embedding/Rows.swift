/// Rows to train on and to encode: sums of a few of 24 directions.
struct Rows {
  static let dModel = 16
  private var state: UInt64

  /// Rows that a seed stands for.
  init(seed: UInt64) { state = seed }

  private mutating func next() -> Float {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Float(state >> 40) / Float(1 << 24)
  }

  /// [24, dModel], the same for all seeds.
  private static let directions = {
    var random = Rows(seed: 1)
    return (0..<24 * dModel).map { _ in random.next() - 0.5 }
  }()

  /// [count, dModel]
  func values(count: Int) -> [Float] {
    var random = self
    return (0..<count).flatMap { _ -> [Float] in
      var row = [Float](repeating: 0, count: Self.dModel)
      for _ in 0..<2 {
        let direction = Int(random.next() * 24) % 24
        let length = 1 + random.next()
        for i in 0..<Self.dModel { row[i] += length * Self.directions[direction * Self.dModel + i] }
      }
      return row
    }
  }

  /// Fraction of the variance of rows that reconstructions leave unexplained.
  static func unexplained(of rows: [Float], by reconstruction: [Float]) -> Float {
    let count = Float(rows.count / dModel)
    var mean = [Float](repeating: 0, count: dModel)
    for (i, value) in rows.enumerated() { mean[i % dModel] += value / count }
    var (error, variance): (Float, Float) = (0, 0)
    for (i, value) in rows.enumerated() {
      error += (value - reconstruction[i]) * (value - reconstruction[i])
      variance += (value - mean[i % dModel]) * (value - mean[i % dModel])
    }
    return error / variance
  }
}
