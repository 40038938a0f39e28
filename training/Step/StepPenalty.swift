internal import Glibc
internal import GranuleObjective

/// How one step's penalty on active latents weighs on values and thresholds.
struct StepPenalty {
  /// What the penalty is of.
  private enum Measure {
    case none
    /// The mean L0 itself.
    case l0
    /// (L0 / target − 1)²
    case target(Double)
    /// Σ tanh(scale · z)
    case tanh(scale: Double)
    /// Σ z / √d_model
    case l1(scale: Double)
  }

  private let measure: Measure
  private let l0: Double
  private let tokens: Double
  /// ∂(coefficient · penalty) / ∂(one token's sum)
  let weight: Double

  /// - Parameter l0: mean number of active latents a token of the batch.
  init(_ objective: StepObjective, tokens: Int, dModel: Int, l0: Double) {
    self.l0 = l0
    self.tokens = Double(max(tokens, 1))
    var weight = objective.sparsityCoefficient / self.tokens
    switch objective.objective {
    case .topk, .batchtopk: (measure, weight) = (.none, 0)
    case .relu: measure = .l1(scale: 1 / Double(dModel).squareRoot())
    case .jumprelu(let settings):
      switch settings.penalty {
      case .l0: measure = .l0
      case .tanh(let scale): measure = .tanh(scale: scale)
      case .target(let target):
        measure = .target(target)
        weight *= 2 * (l0 / target - 1) / target
      }
    }
    self.weight = weight
  }

  /// What a threshold receives of the penalty of each pre-activation near it, before it is divided by
  /// the bandwidth.
  var perThreshold: Double {
    switch measure {
    case .l0, .target: weight
    case .none, .tanh, .l1: 0
    }
  }

  /// What an active latent's value adds to its token's sum.
  func term(_ value: Float) -> Double {
    switch measure {
    case .l1(let scale): scale * Double(value)
    case .tanh(let scale): Glibc.tanh(scale * Double(value))
    case .none, .l0, .target: 0
    }
  }

  /// ∂(coefficient · penalty)/∂z
  func gradient(_ value: Float) -> Double {
    switch measure {
    case .l1(let scale): return weight * scale
    case .tanh(let scale):
      let level = Glibc.tanh(scale * Double(value))
      return weight * scale * (1 - level * level)
    case .none, .l0, .target: return 0
    }
  }

  /// The penalty from the sum over all tokens.
  func loss(sum: Double) -> Double {
    switch measure {
    case .none: 0
    case .l1, .tanh: sum / tokens
    case .l0: l0
    case .target(let target): (l0 / target - 1) * (l0 / target - 1)
    }
  }
}
