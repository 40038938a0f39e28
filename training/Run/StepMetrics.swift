/// What a step of training came to, and how fast it was: a line of `metrics.jsonl`.
public struct StepMetrics: Sendable, Equatable {
  /// A prefix that was trained in the step.
  public struct Prefix: Sendable, Equatable {
    /// Number of latents.
    public var latents: Int
    /// FVU of the batch.
    public var fvu: Double

    /// A prefix and its FVU.
    public init(latents: Int, fvu: Double) {
      self.latents = latents
      self.fvu = fvu
    }
  }

  /// The penalty that an objective without k has.
  public struct Penalty: Sendable, Equatable {
    /// The penalty before its weight.
    public var value: Double
    /// Its weight in this step.
    public var coefficient: Double
  }

  /// How much of k a core took.
  public struct Core: Sendable, Equatable {
    /// Mean number of active latents of the core a token.
    public var l0: Double
    /// Whether the core alone had more than three quarters of k, so that the others were given a
    /// quarter beyond.
    public var exceedsK: Bool
  }

  /// Steps done, this one included.
  public var step: Int
  /// Tokens trained on so far.
  public var tokens: Int
  /// The batch's loss: mean FVU over granularities, and the auxiliary loss and the penalty, weighted.
  public var loss: Double
  /// The prefixes that every step trains, ascending; the last is the full size.
  public var prefixes: [Prefix]
  /// The prefixes that were drawn for this step, ascending.
  public var drawnPrefixes: [Prefix]
  /// The auxiliary loss before its weight.
  public var auxiliaryLoss: Double
  /// Mean number of active latents a token.
  public var l0: Double
  /// Latents that had not been active for the configuration's `deadAfterTokens` before the step.
  public var deadLatents: Int
  /// Adam's learning rate.
  public var learningRate: Double
  /// The gradient's norm before clipping.
  public var gradientNorm: Double
  /// Tokens a second, over the last seconds.
  public var tokensPerSecond: Double
  /// Seconds of training since the run began, without those between processes.
  public var seconds: Double
  /// Seconds that the step waited for its batch.
  public var secondsWaited: Double
  /// The penalty, nil if the objective has none.
  public var penalty: Penalty?
  /// The core's part, nil without a core.
  public var core: Core?
  /// BatchTopK's running mean of the least value kept, in the scale of training; nil for other
  /// objectives.
  public var servingThreshold: Double?
}

/// A dictionary in training measured on held-out activations.
public struct ValidationMetrics: Sendable, Equatable {
  /// Steps done.
  public var step: Int
  /// FVU at full size.
  public var fvu: Double
  /// Mean number of active latents a token.
  public var l0: Double
  /// Tokens that it was measured on.
  public var tokens: Int
}

/// What a run logs. Files of metrics are writers of its entries.
enum MetricsRecord {
  case step(StepMetrics)
  case validation(ValidationMetrics)

  /// A value under a key.
  enum Value {
    case count(Int)
    case number(Double)
    case flag(Bool)
    /// FVU by number of latents.
    case prefixes([StepMetrics.Prefix])
    /// Numbers of latents that differ from step to step, with FVU.
    case drawnPrefixes([StepMetrics.Prefix])
  }

  var step: Int {
    switch self {
    case .step(let metrics): metrics.step
    case .validation(let metrics): metrics.step
    }
  }

  /// What is logged beside the step, in the order of the log.
  var entries: [(key: String, value: Value)] {
    switch self {
    case .validation(let metrics):
      return [
        ("held_out_fvu", .number(metrics.fvu)), ("held_out_l0", .number(metrics.l0)),
        ("held_out_tokens", .count(metrics.tokens)),
      ]
    case .step(let metrics):
      var entries: [(key: String, value: Value)] = [
        ("tokens", .count(metrics.tokens)), ("loss", .number(metrics.loss)),
        ("fvu", .prefixes(metrics.prefixes)),
        ("auxiliary_loss", .number(metrics.auxiliaryLoss)), ("l0", .number(metrics.l0)),
        ("dead_latents", .count(metrics.deadLatents)),
        ("learning_rate", .number(metrics.learningRate)),
        ("gradient_norm", .number(metrics.gradientNorm)),
        ("tokens_per_second", .number(metrics.tokensPerSecond)),
        ("seconds", .number(metrics.seconds)),
        ("seconds_waited_for_data", .number(metrics.secondsWaited)),
      ]
      if !metrics.drawnPrefixes.isEmpty {
        entries.append(("drawn_fvu", .drawnPrefixes(metrics.drawnPrefixes)))
      }
      if let penalty = metrics.penalty {
        entries.append(("penalty", .number(penalty.value)))
        entries.append(("sparsity_coefficient", .number(penalty.coefficient)))
      }
      if let core = metrics.core {
        entries.append(("core_l0", .number(core.l0)))
        entries.append(("core_exceeds_k", .flag(core.exceedsK)))
      }
      if let threshold = metrics.servingThreshold {
        entries.append(("serving_threshold", .number(threshold)))
      }
      return entries
    }
  }
}
