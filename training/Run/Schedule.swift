internal import Glibc
internal import GranuleStatistics
package import GranuleObjective
internal import GranuleStep

// What each step of a run is taken with: functions of the configuration and the step alone, so that a
// resumed run takes the steps that the uninterrupted one would have taken.
extension TrainingConfiguration {
  /// The learning rate at a step, counted from 0: linear warm-up, then constant, then linear decay to
  /// zero.
  public func learningRate(atStep step: Int) -> Double {
    let warmUp = max(1, warmUpSteps ?? min(1000, steps / 20))
    let decayStart = max(0, steps - (decaySteps ?? steps / 5))
    var factor = min(1, Double(step + 1) / Double(warmUp))
    if step >= decayStart { factor *= Double(steps - step) / Double(max(steps - decayStart, 1)) }
    return learningRate * factor
  }

  /// Active latents a token that JumpReLU begins with, if no threshold is given, and ReLU.
  func initialL0(dModel: Int) -> Double {
    min(objective.jumpReLU?.targetL0 ?? Double(dModel) / 4, Double(latents) / 2)
  }

  /// Factor for JumpReLU's thresholds after a step with `l0` active latents a token. While the
  /// penalty's weight grows it holds L0 at its first value: values shrink in the first steps faster
  /// than Adam moves thresholds, and few latents would stay active.
  func thresholdFactor(afterStep step: Int, l0: Double, dModel: Int) -> Double {
    guard let settings = objective.jumpReLU, settings.initialThreshold == nil,
      step < penaltyWarmUpSteps
    else { return 1 }
    // The share of values beyond a threshold falls with about the tenth power of it, or a higher one.
    return pow(min(max(l0 / initialL0(dModel: dModel), 0.25), 4), 0.1)
  }

  private var penaltyWarmUpSteps: Int { objective.penaltyWeight?.warmUpSteps ?? steps / 10 }

  /// The objective of a step, counted from 0.
  package func objective(atStep step: Int) -> StepObjective {
    var result = StepObjective(objective, granularities: trainedGranularities(atStep: step))
    if granularityWeights != nil {
      let weights = weightedPrefixes.map(\.weight)
      let sum = weights.reduce(0, +)
      result.granularityWeights = weights.map { $0 / sum }
    }
    result.auxiliary = auxiliary
    let warmUp = penaltyWarmUpSteps
    result.penaltyShare = warmUp > 0 ? min(1, Double(step + 1) / Double(warmUp)) : 1
    return result
  }

  /// What Adam takes a step with, counted from 0.
  ///
  /// - Parameter l0: mean number of active latents a token of the step's batch.
  func optimizerStep(atStep step: Int, l0: Double, dModel: Int) -> AdamOptimizer.Step {
    var result = AdamOptimizer.Step(
      learningRate: learningRate(atStep: step), weightDecay: weightDecay,
      gradientNormMax: gradientNormMax)
    (result.beta1, result.beta2) = (beta1, beta2)
    result.thresholdFactor = thresholdFactor(afterStep: step, l0: l0, dModel: dModel)
    return result
  }

  /// Equal draws count once.
  private func trainedGranularities(atStep step: Int) -> [Int] {
    guard case .drawn(let count) = prefixLosses else { return prefixes }
    var generator = Xoshiro(seed: (seed &+ 0x5851_F42D) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(step))
    let drawn = (1..<count).map { _ in
      coreLatents + 1 + generator.below(latents - coreLatents)
    }
    return Set(drawn + [latents]).sorted()
  }
}
