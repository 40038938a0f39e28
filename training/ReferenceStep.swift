/// `NestedStep` written plainly: dense, float64, one token and latent after another. Slow, and the
/// oracle of the fast step; itself checked against finite differences.
package struct ReferenceStep {
  /// Parameters or their gradient, row-major as in `DictionaryWeights`.
  package struct Weights: Equatable {
    package var encoder: [Double]
    package var encoderBias: [Double]
    package var decoder: [Double]
    package var decoderBias: [Double]

    var dModel: Int { decoderBias.count }
    var latents: Int { encoderBias.count }

    package init(
      encoder: [Double], encoderBias: [Double], decoder: [Double], decoderBias: [Double]
    ) {
      self.encoder = encoder
      self.encoderBias = encoderBias
      self.decoder = decoder
      self.decoderBias = decoderBias
    }
  }

  package struct Losses {
    package var fvu: [Double]
    package var auxiliary: Double
    package var total: Double
  }

  let granularities: [Int]
  let k: Int
  let auxiliaryCoefficient: Double

  package init(granularities: [Int], k: Int, auxiliaryCoefficient: Double) {
    self.granularities = granularities
    self.k = k
    self.auxiliaryCoefficient = auxiliaryCoefficient
  }

  /// - Parameters:
  ///   - batch: tokens, each [d_model].
  ///   - residuals: what the auxiliary loss reconstructs, nil for the residuals of this very
  ///     batch; finite differences hold them constant, as the gradient does.
  package func run(
    _ weights: Weights, batch: [[Double]], dead: [Int], residuals: [[Double]]? = nil
  ) -> (losses: Losses, gradient: Weights, residuals: [[Double]]) {
    let (dModel, latents) = (weights.dModel, weights.latents)
    var gradient = Weights(
      encoder: weights.encoder.map { _ in 0 }, encoderBias: weights.encoderBias.map { _ in 0 },
      decoder: weights.decoder.map { _ in 0 }, decoderBias: weights.decoderBias.map { _ in 0 })
    let variance = Self.variance(batch)
    var losses = Losses(fvu: granularities.map { _ in 0 }, auxiliary: 0, total: 0)
    var fullResiduals: [[Double]] = []

    func preActivations(_ x: [Double]) -> [Double] {
      (0..<latents).map { j in
        var sum = weights.encoderBias[j]
        for i in 0..<dModel {
          sum += weights.encoder[j * dModel + i] * (x[i] - weights.decoderBias[i])
        }
        return sum
      }
    }
    /// What ∂loss/∂x̂ = `returned` sends to latent j with value z, whose ReLU is open.
    func send(_ returned: [Double], to j: Int, value z: Double, _ x: [Double]) {
      var toValue = 0.0
      for i in 0..<dModel {
        toValue += weights.decoder[j * dModel + i] * returned[i]
        gradient.decoder[j * dModel + i] += z * returned[i]
      }
      gradient.encoderBias[j] += toValue
      for i in 0..<dModel {
        gradient.encoder[j * dModel + i] += toValue * (x[i] - weights.decoderBias[i])
        gradient.decoderBias[i] -= toValue * weights.encoder[j * dModel + i]
      }
    }

    for x in batch {
      let h = preActivations(x)
      let active = (0..<latents).sorted { (-h[$0], $0) < (-h[$1], $1) }.prefix(k)
        .filter { h[$0] > 0 }
      for (m, granularity) in granularities.enumerated() {
        let members = active.filter { $0 < granularity }
        var reconstruction = weights.decoderBias
        for j in members {
          for i in 0..<dModel { reconstruction[i] += h[j] * weights.decoder[j * dModel + i] }
        }
        let difference = (0..<dModel).map { reconstruction[$0] - x[$0] }
        losses.fvu[m] += difference.reduce(0) { $0 + $1 * $1 } / variance
        let returned = difference.map { 2 * $0 / (variance * Double(granularities.count)) }
        for i in 0..<dModel { gradient.decoderBias[i] += returned[i] }
        for j in members { send(returned, to: j, value: h[j], x) }
        if m == granularities.count - 1 { fullResiduals.append(difference.map { -$0 }) }
      }
    }
    let targets = residuals ?? fullResiduals
    if !dead.isEmpty, auxiliaryCoefficient > 0 {
      let auxiliaryK = max(1, min(dModel / 2, dead.count))
      let residualVariance = Self.variance(targets)
      for (x, target) in zip(batch, targets) {
        let h = preActivations(x)
        let active = dead.sorted { (-h[$0], $0) < (-h[$1], $1) }.prefix(auxiliaryK)
          .filter { h[$0] > 0 }
        var reconstruction = [Double](repeating: 0, count: dModel)
        for j in active {
          for i in 0..<dModel { reconstruction[i] += h[j] * weights.decoder[j * dModel + i] }
        }
        let difference = (0..<dModel).map { reconstruction[$0] - target[$0] }
        losses.auxiliary += difference.reduce(0) { $0 + $1 * $1 } / residualVariance
        let returned = difference.map { 2 * auxiliaryCoefficient * $0 / residualVariance }
        for j in active { send(returned, to: j, value: h[j], x) }
      }
    }
    losses.total =
      losses.fvu.reduce(0, +) / Double(granularities.count)
      + auxiliaryCoefficient * losses.auxiliary
    return (losses, gradient, fullResiduals)
  }

  /// Σ‖x − x̄‖²
  static func variance(_ rows: [[Double]]) -> Double {
    var total = 0.0
    for i in 0..<(rows.first?.count ?? 0) {
      let mean = rows.reduce(0) { $0 + $1[i] } / Double(rows.count)
      total += rows.reduce(0) { $0 + ($1[i] - mean) * ($1[i] - mean) }
    }
    return total
  }
}
