/// The loss of a batch:
/// Σ_m w_m Σ‖x − x̂_m‖² / Σ‖x − x̄‖² + auxiliary coefficient · auxiliary loss + sparsity coefficient ·
/// penalty. The penalty is a mean over tokens: of L0 or Σ tanh for JumpReLU, of Σ z / √d_model for
/// ReLU; the other objectives have none.
package struct StepObjective: Sendable {
  package var objective: TrainingObjective
  /// Prefixes whose reconstruction counts, ascending; the last is all latents.
  package var granularities: [Int]
  /// w_m, which add up to 1; nil: all the same.
  package var granularityWeights: [Double]?
  /// The loss of dead latents; nil: none.
  package var auxiliary: AuxiliaryLoss?
  /// The share of the penalty's weight that warm-up has reached, 0 … 1.
  package var penaltyShare = 1.0

  package init(_ objective: TrainingObjective, granularities: [Int]) {
    self.objective = objective
    self.granularities = granularities
  }

  package var weights: [Double] {
    granularityWeights
      ?? [Double](repeating: 1 / Double(granularities.count), count: granularities.count)
  }

  /// The penalty's weight in this step; 0 if there is no penalty.
  package var sparsityCoefficient: Double { objective.coefficient * penaltyShare }

  package var auxiliaryCoefficient: Double { auxiliary?.coefficient ?? 0 }

  /// Number of first latents that are a distilled core: all of them that are positive are active,
  /// and the others' budget is smaller by them.
  package var coreLatents: Int { objective.core?.latents ?? 0 }

  /// Number of first encoder rows that are not trained.
  package var frozenEncoders: Int {
    objective.core.map { $0.trainsEncoders ? 0 : $0.latents } ?? 0
  }

  /// How many values BatchTopK keeps of a batch beside the core's: what the core leaves of k a token,
  /// at least a quarter of k, so that the others are trained whatever the core does.
  package func budget(k: Int, tokens: Int, coreActive: Int) -> (values: Int, isFloored: Bool) {
    let least = (k * tokens + 3) / 4
    let left = k * tokens - coreActive
    return (max(left, least), left < least)
  }

  /// Number of latents that the auxiliary loss may use a token if `dead` latents are dead.
  package func auxiliaryK(dModel: Int, dead: Int) -> Int {
    max(1, min(auxiliary?.latents ?? dModel / 2, dead))
  }
}
