public import GranuleErrors
public import GranuleData
public import GranuleDictionary
public import GranuleObjective

/// Everything that decides what a training run makes; saved with the run.
public struct TrainingConfiguration: Sendable, Equatable {
  /// Which prefixes count in a step's loss.
  public enum PrefixLosses: Sendable, Equatable {
    /// Those of `granularities`, each with a weight; weights are divided by their sum, nil: all the
    /// same.
    case listed(weights: [Double]?)
    /// N and count − 1 others that are drawn anew at each step, uniformly from 1 … N (Progressive
    /// Coding for SAEs, sampled granularities).
    case drawn(count: Int)
  }

  /// The files of activations to train on; a run sets it to the files of its source. No paths if the
  /// source has no files.
  public var activations = ActivationFiles()
  /// Tokens, of sequences spread over those held out, that validation looks at and that the finished
  /// dictionary is calibrated on. If none are held out, it is calibrated on tokens that it was trained
  /// on.
  public var validationTokens = 100_000
  /// Dictionary size N.
  public var latents: Int
  /// How codes are kept sparse.
  public var objective: TrainingObjective
  /// Prefixes that the dictionary is made for, ascending; the last is N. With a core all but the last
  /// count what comes after it; see `prefixes`.
  public var granularities: [Int]
  /// Which prefixes a step trains.
  public var prefixLosses = PrefixLosses.listed(weights: nil)
  /// Tokens to train on, counting each time that one is seen.
  public var tokens: Int
  /// Tokens a step.
  public var batchTokens: Int
  /// Adam's learning rate after warm-up.
  public var learningRate: Double
  /// Steps of linear warm-up; nil: 5 % of all steps, at most 1,000.
  public var warmUpSteps: Int?
  /// Steps of linear decay to zero at the end; nil: the last fifth.
  public var decaySteps: Int?
  /// Decoupled weight decay (AdamW); 0 is Adam.
  public var weightDecay = 0.0
  /// Adam's β₁: how much of its mean of gradients each step keeps.
  public var beta1 = 0.9
  /// Adam's β₂: how much of its mean of squared gradients each step keeps.
  public var beta2 = 0.999
  /// Gradients are scaled so that their norm is at most this; 0 leaves them.
  public var gradientNormMax = 1.0
  /// The loss that revives dead latents; by default TopK and BatchTopK have it and the others do not,
  /// as in their papers.
  public var auxiliary: AuxiliaryLoss?
  /// Tokens without being active after which a latent is dead.
  public var deadAfterTokens: Int
  /// Seed of the initial weights and of the order of tokens.
  public var seed: UInt64 = 0
  /// Steps from one checkpoint to the next.
  public var checkpointEverySteps: Int
  /// Number of newest checkpoints that stay.
  public var checkpointsKept = 2
  /// Number of steps in a row whose loss looks diverged after which training stops.
  public var divergenceSteps = 50
  /// Provenance, written into the dictionary; "" if unknown.
  public var languageModel = ""
  /// Provenance: where in the language model, "" if unknown.
  public var hook: HookPoint = ""

  /// Defaults for a dictionary of a size: papers' if they state one, otherwise those of the codebases
  /// that the field uses (learning rate 2·10⁻⁴ / √(N / 2¹⁴); dead after 10 million tokens, in a
  /// shorter run after a tenth of its tokens).
  ///
  /// - Parameter granularities: nil: N/16, N/8, N/4, N/2, N.
  public init(
    latents: Int, granularities: [Int]? = nil, objective: TrainingObjective, tokens: Int,
    batchTokens: Int = 2048
  ) {
    self.latents = latents
    self.objective = objective
    auxiliary = objective.kind.hasK ? AuxiliaryLoss() : nil
    self.granularities =
      granularities ?? [16, 8, 4, 2, 1].map { latents / $0 }.filter { $0 > 0 }
    self.tokens = tokens
    self.batchTokens = batchTokens
    learningRate = 2e-4 / (Double(latents) / 16384).squareRoot()
    deadAfterTokens = min(10_000_000, max(tokens / 10, 1))
    checkpointEverySteps = max(1, min(1000, tokens / max(batchTokens, 1) / 4))
  }

  /// Number of latents of the core that the dictionary begins with; 0 without one.
  public var coreLatents: Int { objective.core?.latents ?? 0 }

  /// Number of prefixes that a step trains if they are drawn; nil if they are listed.
  public var sampledGranularities: Int? {
    if case .drawn(let count) = prefixLosses { count } else { nil }
  }

  /// The prefixes that are trained: `granularities`, each larger by the core; those that would not be
  /// smaller than N are left out, but N itself.
  public var prefixes: [Int] { weightedPrefixes.map(\.latents) }

  /// Those of `granularities` that, larger by the core, would not be smaller than N.
  public var granularitiesLeftOut: [Int] {
    granularities.dropLast().filter { $0 + coreLatents >= latents }
  }

  /// The prefixes that are trained if they are listed, with their weights as given.
  var weightedPrefixes: [(latents: Int, weight: Double)] {
    let weights = granularityWeights ?? [Double](repeating: 1, count: granularities.count)
    return zip(granularities, weights).enumerated().compactMap { number, prefix in
      if number == granularities.count - 1 { return (latents, prefix.1) }
      let latents = prefix.0 + coreLatents
      return latents < self.latents ? (latents, prefix.1) : nil
    }
  }

  /// Weights of listed prefixes as given, nil if all are the same or prefixes are drawn.
  var granularityWeights: [Double]? {
    if case .listed(let weights) = prefixLosses { weights } else { nil }
  }

  /// The prefixes that the dictionary lists: the core by itself, and those that are trained.
  public var listedGranularities: [Int] { (coreLatents > 0 ? [coreLatents] : []) + prefixes }

  /// Number of steps of the run; the last batch is whole.
  public var steps: Int { (tokens + batchTokens - 1) / batchTokens }
}

// MARK: Limits

extension TrainingConfiguration {
  /// - Throws: `TrainingError` naming the option that is out of bounds.
  public func validate() throws(TrainingError) {
    try TrainingError.require((1...1 << 24).contains(latents), "latents", latents, "in 1 … 2^24")
    try validateGranularities()
    try validateObjective()
    try validateOptimizer()
    for (name, value) in [
      ("warm-up steps", warmUpSteps), ("decay steps", decaySteps),
      ("sparsity warm-up steps", objective.penaltyWeight?.warmUpSteps),
    ] {
      try TrainingError.require(
        (0...1 << 40).contains(value ?? 0), name, value ?? 0, "in 0 … 2^40")
    }
    for (name, value, limit) in [
      ("checkpoints kept", checkpointsKept, 20), ("divergence steps", divergenceSteps, 20),
      ("validation tokens", validationTokens, 48), ("tokens", tokens, 48),
      ("batch", batchTokens, 20),
      ("auxiliary latents", auxiliary?.latents ?? 1, 24),
    ] {
      try TrainingError.require(
        (1...1 << limit).contains(value), name, value, "in 1 … 2^\(limit)")
    }
    try TrainingError.require(
      (0...1 << 40).contains(activations.heldOutSequences ?? 0), "held-out sequences",
      activations.heldOutSequences ?? 0, "in 0 … 2^40")
    try TrainingError.require(
      checkpointEverySteps >= 1, "checkpoint interval", checkpointEverySteps, "at least 1 step")
    try TrainingError.require(
      deadAfterTokens >= 1, "dead after", deadAfterTokens, "at least 1 token")
  }

  private func validateGranularities() throws(TrainingError) {
    let listed = granularities.map(String.init).joined(separator: ",")
    try TrainingError.require(
      !granularities.isEmpty && granularities.count <= 64, "granularities", listed,
      "a list of 1 … 64 prefixes")
    for (before, after) in zip(granularities, granularities.dropFirst()) {
      try TrainingError.require(
        before < after, "granularities", "\(before), then \(after)", "a list that ascends")
    }
    try TrainingError.require(
      granularities[0] >= 1 && granularities[granularities.count - 1] == latents,
      "granularities", listed,
      "a list that begins at 1 or more and ends at latents, \(latents)")
    switch prefixLosses {
    case .drawn(let count):
      try TrainingError.require(
        (1...64).contains(count), "sampled granularities", count, "in 1 … 64")
    case .listed(let weights?):
      let given = weights.map { "\($0)" }.joined(separator: ",")
      try TrainingError.require(
        weights.count == granularities.count, "granularity weights", given,
        "\(granularities.count) numbers, one for each granularity")
      try TrainingError.require(
        weights.allSatisfy { $0 >= 0 && $0.isFinite } && weights.reduce(0, +) > 0,
        "granularity weights", given, "at least 0, and one of them more than 0")
      guard weightedPrefixes.contains(where: { $0.weight > 0 }) else {
        throw TrainingError(
          .invalid(field: "granularity weights", value: given, limit: "more than 0 for one"),
          "granularity weights are 0 for all granularities but those that, larger by the core's "
            + "\(coreLatents) latents, would not be below \(latents)")
      }
    case .listed(nil): break
    }
  }

  private func validateObjective() throws(TrainingError) {
    if let k = objective.k {
      try TrainingError.require(
        (1...latents).contains(k), "k", k, "in 1 … \(latents), the dictionary's latents")
    }
    if let core = objective.core, !(0..<latents).contains(core.latents) {
      throw TrainingError(
        .invalid(field: "latents", value: "\(latents)", limit: "more than \(core.latents)"),
        "the core has \(core.latents) latents, latents is \(latents): it must be larger")
    }
    var numbers = [("sparsity coefficient", objective.coefficient, 0.0)]
    if let settings = objective.jumpReLU {
      let least = Double.leastNonzeroMagnitude
      numbers.append(("initial threshold", settings.initialThreshold ?? 0, 0))
      numbers.append(("bandwidth", settings.bandwidth, least))
      switch settings.penalty {
      case .l0: break
      case .tanh(let scale): numbers.append(("tanh scale", scale, least))
      case .target(let l0): numbers.append(("target L0", l0, least))
      }
    }
    for (name, value, least) in numbers {
      try TrainingError.require(
        value >= least && value.isFinite, name, value, least > 0 ? "more than 0" : "at least 0")
    }
  }

  private func validateOptimizer() throws(TrainingError) {
    try TrainingError.require(
      learningRate > 0 && learningRate.isFinite, "learning rate", learningRate, "more than 0")
    for (name, value) in [
      ("weight decay", weightDecay), ("gradient norm", gradientNormMax),
      ("auxiliary coefficient", auxiliary?.coefficient ?? 0),
    ] {
      try TrainingError.require(value >= 0 && value.isFinite, name, value, "at least 0")
    }
    for (name, value) in [("beta 1", beta1), ("beta 2", beta2)] {
      try TrainingError.require(
        value >= 0 && Float(value) < 1, name, value, "at least 0 and below 1")
    }
  }
}
