internal import Glibc
package import GranuleObjective

/// `NestedStep` written plainly: dense, float64, one token and latent after another. Slow, and the
/// oracle of the fast step; itself checked against finite differences.
package struct ReferenceStep {
  /// Parameters or their gradient, row-major as in `DictionaryWeights`.
  package struct Weights: Equatable {
    package var encoder: [Double]
    package var encoderBias: [Double]
    package var decoder: [Double]
    package var decoderBias: [Double]
    /// Empty if the objective has none.
    package var thresholds: [Double]

    var dModel: Int { decoderBias.count }
    var latents: Int { encoderBias.count }

    package init(
      encoder: [Double], encoderBias: [Double], decoder: [Double], decoderBias: [Double],
      thresholds: [Double] = []
    ) {
      self.encoder = encoder
      self.encoderBias = encoderBias
      self.decoder = decoder
      self.decoderBias = decoderBias
      self.thresholds = thresholds
    }

    fileprivate init(zerosLike other: Weights) {
      func zeros(_ values: [Double]) -> [Double] { values.map { _ in 0 } }
      self.init(
        encoder: zeros(other.encoder), encoderBias: zeros(other.encoderBias),
        decoder: zeros(other.decoder), decoderBias: zeros(other.decoderBias),
        thresholds: zeros(other.thresholds))
    }
  }

  package struct Losses {
    package var fvu: [Double]
    package var auxiliary = 0.0
    package var penalty = 0.0
    package var total = 0.0
    package var l0 = 0.0
  }

  /// What finite differences hold constant, as gradients do.
  package struct Constants {
    /// What the auxiliary loss reconstructs.
    package var residuals: [[Double]]
    /// The active latents of each token.
    package var active: [[Int]]
  }

  let objective: StepObjective

  package init(_ objective: StepObjective) { self.objective = objective }

  private var jumpReLU: TrainingObjective.JumpReLU? { objective.objective.jumpReLU }

  /// Losses and gradient of a batch.
  ///
  /// - Parameters:
  ///   - batch: tokens, each [d_model].
  ///   - constants: nil for those of this very batch.
  package func run(
    _ weights: Weights, batch: [[Double]], dead: [Int], constants: Constants? = nil
  ) -> (losses: Losses, gradient: Weights, constants: Constants) {
    let pre = batch.map { preActivations(of: $0, weights) }
    let active = constants?.active ?? selected(pre, weights)
    var losses = Losses(fvu: objective.granularities.map { _ in 0 })
    losses.l0 = Double(active.reduce(0) { $0 + $1.count }) / Double(batch.count)
    var gradient = Weights(zerosLike: weights)
    var residuals: [[Double]] = []
    let variance = Self.variance(batch)
    for (t, x) in batch.enumerated() {
      // ∂loss/∂z of every latent, were it active.
      var toValues = [Double](repeating: 0, count: weights.latents)
      residuals.append(
        reconstruct(
          x, pre[t], active[t], weights, variance: variance, &losses, &gradient, &toValues))
      sparsify(x, pre[t], active[t], weights, tokens: batch.count, toValues, &losses, &gradient)
    }
    if isL0 {
      losses.penalty = jumpReLU?.targetL0.map { pow(losses.l0 / $0 - 1, 2) } ?? losses.l0
    }
    if !dead.isEmpty, objective.auxiliaryCoefficient > 0 {
      losses.auxiliary = revive(
        dead, batch, pre, weights, targets: constants?.residuals ?? residuals, &gradient)
    }
    losses.total =
      zip(losses.fvu, objective.weights).reduce(0) { $0 + $1.0 * $1.1 }
      + objective.auxiliaryCoefficient * losses.auxiliary
      + objective.sparsityCoefficient * losses.penalty
    return (losses, gradient, Constants(residuals: residuals, active: active))
  }

  /// Whether the penalty is a function of L0.
  private var isL0: Bool {
    switch jumpReLU?.penalty {
    case .l0, .target: true
    case .tanh, nil: false
    }
  }

  /// h = W_enc (x − b_dec) + b_enc
  private func preActivations(of x: [Double], _ weights: Weights) -> [Double] {
    (0..<weights.latents).map { j in
      var sum = weights.encoderBias[j]
      for i in 0..<weights.dModel {
        sum += weights.encoder[j * weights.dModel + i] * (x[i] - weights.decoderBias[i])
      }
      return sum
    }
  }

  /// Adds one token's FVU at every granularity, and what it sends to decoder and values.
  ///
  /// - Returns: the residual at full size.
  private func reconstruct(
    _ x: [Double], _ h: [Double], _ active: [Int], _ weights: Weights, variance: Double,
    _ losses: inout Losses, _ gradient: inout Weights, _ toValues: inout [Double]
  ) -> [Double] {
    let dModel = weights.dModel
    var residual: [Double] = []
    for (m, granularity) in objective.granularities.enumerated() {
      let members = active.filter { $0 < granularity }
      var reconstruction = weights.decoderBias
      for j in members {
        for i in 0..<dModel { reconstruction[i] += h[j] * weights.decoder[j * dModel + i] }
      }
      let difference = (0..<dModel).map { reconstruction[$0] - x[$0] }
      losses.fvu[m] += difference.reduce(0) { $0 + $1 * $1 } / variance
      let returned = difference.map { 2 * objective.weights[m] * $0 / variance }
      for i in 0..<dModel { gradient.decoderBias[i] += returned[i] }
      for j in 0..<granularity {
        for i in 0..<dModel { toValues[j] += weights.decoder[j * dModel + i] * returned[i] }
      }
      for j in members {
        for i in 0..<dModel { gradient.decoder[j * dModel + i] += h[j] * returned[i] }
      }
      residual = difference.map { -$0 }
    }
    return residual
  }

  /// Adds one token's penalty, and what losses and penalty send to encoder and thresholds.
  private func sparsify(
    _ x: [Double], _ h: [Double], _ active: [Int], _ weights: Weights, tokens: Int,
    _ toValues: [Double], _ losses: inout Losses, _ gradient: inout Weights
  ) {
    let tokens = Double(tokens)
    /// ∂(coefficient · penalty) / ∂(mean L0), if the penalty is of L0.
    var perL0 = objective.sparsityCoefficient
    if let target = jumpReLU?.targetL0 { perL0 *= 2 * (losses.l0 / target - 1) / target }
    for j in 0..<weights.latents {
      let isActive = active.contains(j)
      let (term, slope) = penalty(of: isActive ? h[j] : 0, dModel: weights.dModel)
      if isActive { losses.penalty += term / tokens }
      let toValue = toValues[j] + objective.sparsityCoefficient * slope / tokens
      if isActive { sendToEncoder(toValue, j, x, weights, &gradient) }
      guard let bandwidth = jumpReLU?.bandwidth, h[j] > 0 else { continue }
      let threshold = weights.thresholds[j]
      guard abs(h[j] - threshold) < bandwidth / 2 else { continue }
      gradient.thresholds[j] -= threshold / bandwidth * toValue
      if isL0 { gradient.thresholds[j] -= perL0 / tokens / bandwidth }
    }
  }

  /// What ∂loss/∂h = `toPreActivation` sends to the encoder.
  private func sendToEncoder(
    _ toPreActivation: Double, _ j: Int, _ x: [Double], _ weights: Weights,
    _ gradient: inout Weights
  ) {
    let dModel = weights.dModel
    gradient.encoderBias[j] += toPreActivation
    for i in 0..<dModel {
      if j >= objective.frozenEncoders {
        gradient.encoder[j * dModel + i] += toPreActivation * (x[i] - weights.decoderBias[i])
      }
      gradient.decoderBias[i] -= toPreActivation * weights.encoder[j * dModel + i]
    }
  }

  /// Reconstructs residuals by the best of the dead latents.
  ///
  /// - Returns: the auxiliary loss.
  private func revive(
    _ dead: [Int], _ batch: [[Double]], _ pre: [[Double]], _ weights: Weights,
    targets: [[Double]], _ gradient: inout Weights
  ) -> Double {
    let dModel = weights.dModel
    let k = max(1, min(objective.auxiliary?.latents ?? dModel / 2, dead.count))
    let variance = Self.variance(targets)
    var loss = 0.0
    for (t, target) in targets.enumerated() {
      let h = pre[t]
      let active = dead.sorted { (-h[$0], $0) < (-h[$1], $1) }.prefix(k).filter { h[$0] > 0 }
      var reconstruction = [Double](repeating: 0, count: dModel)
      for j in active {
        for i in 0..<dModel { reconstruction[i] += h[j] * weights.decoder[j * dModel + i] }
      }
      let difference = (0..<dModel).map { reconstruction[$0] - target[$0] }
      loss += difference.reduce(0) { $0 + $1 * $1 } / variance
      let returned = difference.map { 2 * objective.auxiliaryCoefficient * $0 / variance }
      for j in active {
        var toValue = 0.0
        for i in 0..<dModel {
          toValue += weights.decoder[j * dModel + i] * returned[i]
          gradient.decoder[j * dModel + i] += h[j] * returned[i]
        }
        sendToEncoder(toValue, j, batch[t], weights, &gradient)
      }
    }
    return loss
  }

  /// The active latents of each token, ascending.
  private func selected(_ pre: [[Double]], _ weights: Weights) -> [[Int]] {
    switch objective.objective {
    case .topk(let k):
      return pre.map { h in
        h.indices.sorted { (-h[$0], $0) < (-h[$1], $1) }.prefix(k)
          .filter { h[$0] > 0 }.sorted()
      }
    case .batchtopk(let k, _):
      let core = objective.coreLatents
      let coreActive = pre.reduce(0) { $0 + $1[..<core].count { $0 > 0 } }
      let budget = objective.budget(k: k, tokens: pre.count, coreActive: coreActive).values
      let others = pre.flatMap { $0[core...] }.sorted(by: >).prefix(budget)
      let least = others.last { $0 > 0 } ?? 0
      return pre.map { h in
        h.indices.filter { h[$0] > 0 && ($0 < core || h[$0] >= least) }
      }
    case .jumprelu:
      return pre.map { h in h.indices.filter { h[$0] > max(weights.thresholds[$0], 0) } }
    case .relu: return pre.map { h in h.indices.filter { h[$0] > 0 } }
    }
  }

  /// What a value adds to its token's penalty, and the derivative.
  private func penalty(of value: Double, dModel: Int) -> (term: Double, slope: Double) {
    if case .relu = objective.objective {
      let scale = 1 / Double(dModel).squareRoot()
      return (scale * value, scale)
    }
    guard case .tanh(let scale) = jumpReLU?.penalty else { return (0, 0) }
    let level = tanh(scale * value)
    return (level, scale * (1 - level * level))
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
