/// How codes are kept sparse while a dictionary is trained.
public enum TrainingObjective: String, Sendable, CaseIterable {
  /// The k largest of each token (Gao et al., Scaling and evaluating sparse autoencoders).
  case topk
  /// The k · tokens largest of the whole batch; served with a threshold (Bussmann et al., BatchTopK
  /// Sparse Autoencoders).
  case batchtopk
  /// Those above a threshold of each latent, which is trained by straight-through estimates
  /// (Rajamanoharan et al., Jumping Ahead, arXiv 2407.14435).
  case jumprelu
  /// All that are positive, their sum penalised: the vanilla sparse autoencoder.
  case relu

  /// Whether k decides how many latents are active; else the sparsity coefficient does.
  public var hasK: Bool { self == .topk || self == .batchtopk }
}

/// What JumpReLU's loss penalises.
public enum SparsityPenalty: String, Sendable, CaseIterable {
  /// The number of active latents (arXiv 2407.14435, section 3).
  case l0
  /// Σ tanh(scale · z), which sends gradients to active latents too (Conerly et al., Dictionary
  /// Learning Optimization Techniques, 2025).
  case tanh
}

/// The loss of a batch:
/// Σ_m w_m Σ‖x − x̂_m‖² / Σ‖x − x̄‖² + auxiliary coefficient · auxiliary loss + sparsity coefficient ·
/// penalty, where the penalty is a mean over tokens: of L0 or Σ tanh for JumpReLU, of Σ z / √d_model
/// for ReLU; there is none for the others.
package struct StepObjective: Sendable {
  package var objective = TrainingObjective.topk
  /// Prefixes whose reconstruction counts, ascending; the last is all latents.
  package var granularities: [Int]
  /// w_m, which add up to 1; nil: all the same.
  package var granularityWeights: [Double]?
  /// Active latents a token, for those that have a k.
  package var k = 1
  package var auxiliaryCoefficient = 0.0
  /// The most latents the auxiliary loss may use a token; nil: d_model / 2 (Gao et al., appendix A.2).
  package var auxiliaryLatents: Int?
  package var sparsityCoefficient = 0.0
  package var penalty = SparsityPenalty.l0
  /// Where set, JumpReLU's penalty is (L0 / target − 1)², L0 the batch's mean (arXiv 2407.14435,
  /// appendix on training for a given sparsity).
  package var targetL0: Double?
  /// Width ε of the rectangle within which a pre-activation moves its threshold.
  package var bandwidth = 0.05
  /// Of the tanh.
  package var tanhScale = 4.0
  /// So many first latents are a distilled core, of BatchTopK only: all that are positive are active,
  /// and the others' budget is smaller by them.
  package var coreLatents = 0
  /// Whether the core's encoder rows stay as they are.
  package var freezesCoreEncoders = true

  package init(granularities: [Int]) { self.granularities = granularities }

  package var weights: [Double] {
    granularityWeights
      ?? [Double](repeating: 1 / Double(granularities.count), count: granularities.count)
  }

  /// How many values BatchTopK keeps of a batch beside the core's: what the core leaves of k a token, but
  /// no less than a quarter of k, so that the others are trained whatever the core does.
  package func budget(tokens: Int, coreActive: Int) -> (values: Int, isFloored: Bool) {
    let least = (k * tokens + 3) / 4
    let left = k * tokens - coreActive
    return (max(left, least), left < least)
  }

  /// Encoder rows that are not trained, from the first.
  package var frozenEncoders: Int { freezesCoreEncoders ? coreLatents : 0 }

  /// Latents that the auxiliary loss may use a token, where so many are dead.
  package func auxiliaryK(dModel: Int, dead: Int) -> Int {
    max(1, min(auxiliaryLatents ?? dModel / 2, dead))
  }
}
