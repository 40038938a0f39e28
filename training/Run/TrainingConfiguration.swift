internal import Glibc
internal import GranuleData
public import GranuleDictionary
public import GranuleErrors
public import GranuleObjective
internal import GranuleStep

/// Everything that decides what a training run makes; saved with the run.
public struct TrainingConfiguration: Sendable, Equatable {
  /// Files and folders of activations.
  public var activations: [String]
  /// Sequences to use, nil for all.
  public var sequences: Range<Int>?
  /// The last so many sequences are kept from training, to validate and calibrate on; nil: a tenth.
  public var heldOutSequences: Int?
  /// Tokens, of sequences spread over those held out, that validation looks at, and those that the
  /// finished dictionary is calibrated on; where none are held out, over those trained on.
  public var validationTokens = 100_000
  /// Dictionary size N.
  public var latents: Int
  /// How codes are kept sparse.
  public var objective = TrainingObjective.topk
  /// Prefixes that the dictionary is made for, ascending; the last is N. Their reconstructions are
  /// trained, unless `sampledGranularities` is set. With a core all but the last count what comes
  /// after it; see `prefixes`.
  public var granularities: [Int]
  /// Weights of the granularities' losses, divided by their sum; nil: all the same.
  public var granularityWeights: [Double]?
  /// Instead of the same prefixes at every step, N and so many less one drawn uniformly from 1 … N
  /// (Progressive Coding for SAEs, sampled granularities).
  public var sampledGranularities: Int?
  /// Active latents a token, in the full dictionary; without meaning for JumpReLU and ReLU.
  public var k: Int
  /// Weight of the penalty by which JumpReLU and ReLU become sparse, see `StepObjective`; nil: 1 with a
  /// target L0, which less hardly pulls at, else SAELens's 0.001.
  public var sparsityCoefficient: Double?
  /// What JumpReLU penalises.
  public var sparsityPenalty = SparsityPenalty.l0
  /// The mean L0 that JumpReLU is drawn to, by the penalty (L0 / target − 1)²; nil: the penalty is L0
  /// itself.
  public var targetL0: Double?
  /// The coefficient grows linearly over so many steps; nil: a tenth of the run.
  public var sparsityWarmUpSteps: Int?
  /// Width ε of JumpReLU's straight-through estimates, where activations have norm √d_model; the
  /// default, and that of the tanh penalty's scale, are SAELens's.
  public var bandwidth = 0.05
  /// JumpReLU's thresholds at the start, all the same; nil: what leaves `initialL0` latents active.
  /// Low ones leave half of the latents active, whose sum is far beyond the activation.
  public var initialThreshold: Double?
  /// Of the tanh penalty.
  public var tanhScale = 4.0
  /// Tokens to train on, counting each time that one is seen.
  public var tokens: Int
  /// Tokens a step.
  public var batchTokens: Int
  /// Adam's learning rate after warm-up.
  public var learningRate: Double
  /// Linear warm-up over so many steps; nil: 5 % of them, at most 1,000.
  public var warmUpSteps: Int?
  /// Linear decay to zero over the last so many steps; nil: the last fifth.
  public var decaySteps: Int?
  /// Decoupled weight decay (AdamW); 0 is Adam.
  public var weightDecay = 0.0
  /// Adam's β₁: how much of its mean of gradients each step keeps.
  public var beta1 = 0.9
  /// Adam's β₂: how much of its mean of squared gradients each step keeps.
  public var beta2 = 0.999
  /// Gradients are scaled so that their norm is at most this; 0 leaves them.
  public var gradientNormMax = 1.0
  /// Weight of the auxiliary loss that revives dead latents; for TopK and BatchTopK 1/32, for the
  /// others 0, as in their papers.
  public var auxiliaryCoefficient: Double
  /// The most dead latents that the auxiliary loss may use a token; nil: d_model / 2.
  public var auxiliaryLatents: Int?
  /// A latent is dead once it has not been active for so many tokens.
  public var deadAfterTokens: Int
  /// Seed of the initial weights and of the order of tokens.
  public var seed: UInt64 = 0
  /// Steps from one checkpoint to the next.
  public var checkpointEverySteps: Int
  /// How many of the newest checkpoints stay.
  public var checkpointsKept = 2
  /// Training that looks diverged, by the loss of so many steps in a row, stops.
  public var divergenceSteps = 50
  /// A folder with the core that the dictionary begins with, "" for none: its encoder vectors are the
  /// first latents', in every prefix, and exempt from BatchTopK's selection (Martin-Linares & Ling,
  /// arXiv 2512.24975).
  public var core = ""
  /// Latents of that core; found when the run begins.
  public var coreLatents = 0
  /// Whether the core's encoder vectors are trained; else they stay as they are.
  public var trainsCoreEncoders = false
  /// Provenance, written into the dictionary; "" if unknown.
  public var languageModel = ""
  /// Provenance: where in the language model, "" if unknown.
  public var hook: HookPoint = ""

  /// Defaults for a dictionary of a size: papers' where they state one, else those of the codebases
  /// that the field uses (learning rate 2·10⁻⁴ / √(N / 2¹⁴); dead after 10 million tokens, in a
  /// shorter run after a tenth of its tokens).
  public init(
    activations: [String], latents: Int, granularities: [Int]? = nil, k: Int, tokens: Int,
    heldOutSequences: Int? = nil, batchTokens: Int = 2048, objective: TrainingObjective = .topk
  ) {
    self.objective = objective
    auxiliaryCoefficient = objective.hasK ? 1.0 / 32 : 0
    self.activations = activations
    self.latents = latents
    self.granularities =
      granularities ?? [16, 8, 4, 2, 1].map { latents / $0 }.filter { $0 > 0 }
    self.k = k
    self.tokens = tokens
    self.heldOutSequences = heldOutSequences
    self.batchTokens = batchTokens
    learningRate = 2e-4 / (Double(latents) / 16384).squareRoot()
    deadAfterTokens = min(10_000_000, max(tokens / 10, 1))
    checkpointEverySteps = max(1, min(1000, tokens / max(batchTokens, 1) / 4))
  }

  /// The prefixes that are trained: `granularities`, each larger by the core; those that would not be
  /// smaller than N are left out, but N itself.
  public var prefixes: [Int] { weightedPrefixes.map(\.latents) }

  /// Those of `granularities` that, larger by the core, would not be smaller than N.
  public var granularitiesLeftOut: [Int] {
    granularities.dropLast().filter { $0 + coreLatents >= latents }
  }

  private var weightedPrefixes: [(latents: Int, weight: Double)] {
    let weights = granularityWeights ?? [Double](repeating: 1, count: granularities.count)
    return zip(granularities, weights).enumerated().compactMap { number, prefix in
      if number == granularities.count - 1 { return (latents, prefix.1) }
      let latents = prefix.0 + coreLatents
      return latents < self.latents ? (latents, prefix.1) : nil
    }
  }

  /// The prefixes that the dictionary lists: the core by itself, and those that are trained.
  public var listedGranularities: [Int] { (coreLatents > 0 ? [coreLatents] : []) + prefixes }

  /// Number of steps of the run; the last batch is whole.
  public var steps: Int { (tokens + batchTokens - 1) / batchTokens }

  /// The learning rate at a step, counted from 0: linear warm-up, then constant, then linear decay to
  /// zero.
  public func learningRate(atStep step: Int) -> Double {
    let warmUp = max(1, warmUpSteps ?? min(1000, steps / 20))
    let decayStart = max(0, steps - (decaySteps ?? steps / 5))
    var factor = min(1, Double(step + 1) / Double(warmUp))
    if step >= decayStart { factor *= Double(steps - step) / Double(max(steps - decayStart, 1)) }
    return learningRate * factor
  }

  /// Active latents a token with which JumpReLU begins, where no threshold is given, and ReLU.
  func initialL0(dModel: Int) -> Double {
    min(targetL0 ?? Double(dModel) / 4, Double(latents) / 2)
  }

  /// What JumpReLU's thresholds are multiplied by after a step of so many active latents a token. While
  /// the penalty's weight grows it holds L0 where it began: values shrink in the first steps faster
  /// than Adam moves thresholds, and few latents would stay active.
  func thresholdFactor(afterStep step: Int, l0: Double, dModel: Int) -> Double {
    guard objective == .jumprelu, initialThreshold == nil, step < penaltyWarmUpSteps else {
      return 1
    }
    // The share of values beyond a threshold falls with some tenth power of it, or a higher one.
    return pow(min(max(l0 / initialL0(dModel: dModel), 0.25), 4), 0.1)
  }

  /// The weight that the penalty grows to.
  public var penaltyWeight: Double { sparsityCoefficient ?? (targetL0 == nil ? 1e-3 : 1) }

  private var penaltyWarmUpSteps: Int { sparsityWarmUpSteps ?? steps / 10 }

  /// The objective of a step, counted from 0.
  package func objective(atStep step: Int) -> StepObjective {
    var result = StepObjective(granularities: trainedGranularities(atStep: step))
    result.objective = objective
    if granularityWeights != nil, sampledGranularities == nil {
      let weights = weightedPrefixes.map(\.weight)
      let sum = weights.reduce(0, +)
      result.granularityWeights = weights.map { $0 / sum }
    }
    result.coreLatents = coreLatents
    result.freezesCoreEncoders = !trainsCoreEncoders
    result.k = k
    result.auxiliaryCoefficient = auxiliaryCoefficient
    result.auxiliaryLatents = auxiliaryLatents
    let warmUp = penaltyWarmUpSteps
    let share = warmUp > 0 ? min(1, Double(step + 1) / Double(warmUp)) : 1
    result.sparsityCoefficient = objective.hasK ? 0 : penaltyWeight * share
    result.penalty = sparsityPenalty
    result.targetL0 = targetL0
    result.bandwidth = bandwidth
    result.tanhScale = tanhScale
    return result
  }

  func optimizerStep(learningRate: Double) -> AdamOptimizer.Step {
    var step = AdamOptimizer.Step(
      learningRate: learningRate, weightDecay: weightDecay, gradientNormMax: gradientNormMax)
    (step.beta1, step.beta2) = (beta1, beta2)
    return step
  }

  /// A function of seed and step alone, so that a resumed run draws what the uninterrupted one would
  /// have. Of equal draws one is left.
  private func trainedGranularities(atStep step: Int) -> [Int] {
    guard let sampledGranularities else { return prefixes }
    var generator = Xoshiro(seed: (seed &+ 0x5851_F42D) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(step))
    let drawn = (1..<sampledGranularities).map { _ in
      coreLatents + 1 + generator.below(latents - coreLatents)
    }
    return Set(drawn + [latents]).sorted()
  }

  /// - Throws: `TrainingError` naming the option that is out of bounds.
  public func validate() throws(TrainingError) {
    func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(TrainingError) {
      if !condition { throw TrainingError(message()) }
    }
    try require((1...1 << 24).contains(latents), "latents is \(latents), it must be in 1 … 2^24")
    try require(!granularities.isEmpty, "granularities: at least one is needed")
    for (before, after) in zip(granularities, granularities.dropFirst()) {
      try require(before < after, "granularities must ascend: \(before), then \(after)")
    }
    try require(
      granularities[0] >= 1 && granularities[granularities.count - 1] == latents,
      "granularities must begin at 1 or more and end at latents, \(latents)")
    try require(granularities.count <= 64, "granularities: at most 64 are supported")
    if objective.hasK {
      try require((1...latents).contains(k), "k is \(k), it must be in 1 … \(latents), latents")
    }
    try require(
      core.isEmpty || objective == .batchtopk,
      "a core needs the objective batchtopk, not \(objective.rawValue): it is exempt from a selection "
        + "over the batch")
    try require(
      core.isEmpty ? coreLatents == 0 : (0..<latents).contains(coreLatents),
      "the core has \(coreLatents) latents, latents is \(latents): it must be larger")
    if let granularityWeights {
      try require(
        sampledGranularities == nil,
        "granularity weights belong to fixed granularities; leave out one of the two options")
      try require(
        granularityWeights.count == granularities.count,
        "there are \(granularityWeights.count) granularity weights and \(granularities.count) "
          + "granularities")
      try require(
        granularityWeights.allSatisfy { $0 >= 0 && $0.isFinite }
          && granularityWeights.reduce(0, +) > 0,
        "granularity weights must be at least 0, and one more than 0")
      try require(
        weightedPrefixes.contains { $0.weight > 0 },
        "granularity weights are 0 for all granularities but those that, larger by the core's "
          + "\(coreLatents) latents, would not be below \(latents)")
    }
    if let sampledGranularities {
      try require(
        (1...64).contains(sampledGranularities),
        "sampled granularities is \(sampledGranularities), it must be in 1 … 64")
    }
    for (name, value) in [
      ("sparsity coefficient", penaltyWeight), ("initial threshold", initialThreshold ?? 0),
    ] {
      try require(value >= 0 && value.isFinite, "\(name) is \(value), it must be at least 0")
    }
    for (name, value) in [
      ("bandwidth", bandwidth), ("tanh scale", tanhScale), ("target L0", targetL0 ?? 1),
    ] {
      try require(value > 0 && value.isFinite, "\(name) is \(value), it must be more than 0")
    }
    for (name, value) in [
      ("warm-up", warmUpSteps), ("decay", decaySteps), ("sparsity warm-up", sparsityWarmUpSteps),
    ] {
      try require(
        (0...1 << 40).contains(value ?? 0), "\(name) is \(value ?? 0) steps, at least 0 are needed")
    }
    try require(
      (1...1 << 20).contains(checkpointsKept),
      "checkpoints kept is \(checkpointsKept), at least 1 is needed")
    try require(
      (1...1 << 20).contains(divergenceSteps),
      "divergence steps is \(divergenceSteps), it must be in 1 … 2^20")
    try require(
      (1...1 << 48).contains(validationTokens),
      "validation tokens is \(validationTokens), it must be in 1 … 2^48")
    try require((1...1 << 48).contains(tokens), "tokens is \(tokens), it must be in 1 … 2^48")
    try require(
      (1...1 << 20).contains(batchTokens), "batch is \(batchTokens), it must be in 1 … 2^20")
    try require(
      learningRate > 0 && learningRate.isFinite, "learning rate \(learningRate) is not positive")
    try require(
      weightDecay >= 0 && weightDecay.isFinite, "weight decay \(weightDecay) is negative")
    try require(
      gradientNormMax >= 0 && gradientNormMax.isFinite,
      "gradient norm \(gradientNormMax) is negative")
    try require(
      auxiliaryCoefficient >= 0 && auxiliaryCoefficient.isFinite,
      "auxiliary coefficient \(auxiliaryCoefficient) is negative")
    for (name, value) in [("beta 1", beta1), ("beta 2", beta2)] {
      try require(
        value >= 0 && Float(value) < 1, "\(name) is \(value), it must be at least 0 and below 1")
    }
    try require(
      (1...1 << 24).contains(auxiliaryLatents ?? 1),
      "auxiliary latents is \(auxiliaryLatents ?? 1), it must be in 1 … 2^24")
    try require(
      (0...1 << 40).contains(heldOutSequences ?? 0),
      "held-out sequences is \(heldOutSequences ?? 0), it must be in 0 … 2^40")
    try require(checkpointEverySteps >= 1, "checkpoint interval is \(checkpointEverySteps) steps")
    try require(deadAfterTokens >= 1, "dead after \(deadAfterTokens) tokens, at least 1 is needed")
  }
}
