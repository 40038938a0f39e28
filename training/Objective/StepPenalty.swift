internal import Glibc

/// How one step's penalty on active latents (L1, L0 or tanh) weighs on values and thresholds.
package struct StepPenalty {
  private let objective: StepObjective
  private let l0: Double
  private let tokens: Double
  /// ∂(coefficient · penalty) / ∂(one token's sum)
  package let weight: Double
  private let scale: Double

  package init(_ objective: StepObjective, tokens: Int, dModel: Int, l0: Double) {
    self.objective = objective
    self.l0 = l0
    self.tokens = Double(max(tokens, 1))
    var weight = objective.sparsityCoefficient / self.tokens
    if objective.objective == .jumprelu, let target = objective.targetL0 {
      weight *= 2 * (l0 / target - 1) / target
    }
    self.weight = objective.objective.hasK ? 0 : weight
    scale = 1 / Double(dModel).squareRoot()
  }

  package var isTanh: Bool {
    objective.objective == .jumprelu && objective.penalty == .tanh && objective.targetL0 == nil
  }
  package var isL0: Bool { objective.objective == .jumprelu && !isTanh }
  package var isL1: Bool { objective.objective == .relu }

  /// What an active latent's value adds to its token's sum.
  package func term(_ value: Float) -> Double {
    if isL1 { return scale * Double(value) }
    return isTanh ? tanh(objective.tanhScale * Double(value)) : 0
  }

  /// ∂(coefficient · penalty)/∂z
  package func gradient(_ value: Float) -> Double {
    if isL1 { return weight * scale }
    guard isTanh else { return 0 }
    let level = tanh(objective.tanhScale * Double(value))
    return weight * objective.tanhScale * (1 - level * level)
  }

  /// The penalty from the sum over all tokens.
  package func loss(sum: Double) -> Double {
    if isTanh || isL1 { return sum / tokens }
    guard isL0 else { return 0 }
    return objective.targetL0.map { (l0 / $0 - 1) * (l0 / $0 - 1) } ?? l0
  }
}
