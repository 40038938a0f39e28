internal import GranuleErrors
internal import GranuleFiles
internal import GranuleObjective

/// What JumpReLU's loss penalises, as a configuration's file names it.
public enum SparsityPenalty: String, Sendable, CaseIterable {
  /// The number of active latents.
  case l0
  /// Σ tanh(scale · z)
  case tanh
}

/// A configuration as its file has it: an objective's settings under keys of their own, each with a
/// value, whether the objective uses it or not. The one place that knows both forms.
struct ConfigurationKeys {
  /// All settings that have the same form in both; what the keys below say is not read from here.
  var rest: TrainingConfiguration
  var kind: TrainingObjective.Kind
  var k = 0
  var sparsityCoefficient: Double?
  var sparsityPenalty = SparsityPenalty.l0
  var targetL0: Double?
  var sparsityWarmUpSteps: Int?
  var bandwidth = TrainingObjective.JumpReLU().bandwidth
  var initialThreshold: Double?
  var tanhScale = TrainingObjective.JumpReLU.defaultTanhScale
  var granularityWeights: [Double]?
  var sampledGranularities: Int?
  var auxiliaryCoefficient = 0.0
  var auxiliaryLatents: Int?
  /// "" without a core.
  var core = ""
  var coreLatents = 0
  var trainsCoreEncoders = false

  init(_ configuration: TrainingConfiguration) {
    rest = configuration
    let objective = configuration.objective
    kind = objective.kind
    k = objective.k ?? 0
    sparsityCoefficient = objective.penaltyWeight?.coefficient
    sparsityWarmUpSteps = objective.penaltyWeight?.warmUpSteps
    if let settings = objective.jumpReLU {
      bandwidth = settings.bandwidth
      initialThreshold = settings.initialThreshold
      switch settings.penalty {
      case .l0: break
      case .tanh(let scale): (sparsityPenalty, tanhScale) = (.tanh, scale)
      case .target(let l0): targetL0 = l0
      }
    }
    granularityWeights = configuration.granularityWeights
    sampledGranularities = configuration.sampledGranularities
    auxiliaryCoefficient = configuration.auxiliary?.coefficient ?? 0
    auxiliaryLatents = configuration.auxiliary?.latents
    if let core = objective.core {
      self.core = core.folder
      coreLatents = core.latents
      trainsCoreEncoders = core.trainsEncoders
    }
  }

  /// The configuration that the keys stand for. Those that the objective does not use are ignored.
  ///
  /// - Throws: `TrainingError` if two keys contradict each other.
  func configuration() throws(TrainingError) -> TrainingConfiguration {
    var result = rest
    let weight = TrainingObjective.PenaltyWeight(
      coefficient: sparsityCoefficient, warmUpSteps: sparsityWarmUpSteps)
    guard core.isEmpty || kind == .batchtopk else {
      throw TrainingError(
        .invalid(field: "core", value: core, limit: "used with the objective batchtopk"),
        "a core needs the objective batchtopk, not \(kind.rawValue): it is exempt from a selection "
          + "over the batch")
    }
    result.objective =
      switch kind {
      case .topk: .topk(k: k)
      case .batchtopk:
        .batchtopk(
          k: k,
          core: core.isEmpty
            ? nil
            : .init(folder: core, latents: coreLatents, trainsEncoders: trainsCoreEncoders))
      case .jumprelu:
        .jumprelu(
          .init(
            targetL0.map { .target(l0: $0) }
              ?? (sparsityPenalty == .tanh ? .tanh(scale: tanhScale) : .l0),
            weight: weight, bandwidth: bandwidth, initialThreshold: initialThreshold))
      case .relu: .relu(weight)
      }
    guard sampledGranularities == nil || granularityWeights == nil else {
      throw TrainingError(
        .invalid(field: "granularity weights", value: "given", limit: "used without sampling"),
        "granularity weights belong to listed granularities, not to sampled ones: leave out one of "
          + "the two options")
    }
    result.prefixLosses =
      sampledGranularities.map { .drawn(count: $0) } ?? .listed(weights: granularityWeights)
    result.auxiliary =
      auxiliaryCoefficient == 0
      ? nil : AuxiliaryLoss(coefficient: auxiliaryCoefficient, latents: auxiliaryLatents)
    return result
  }
}
