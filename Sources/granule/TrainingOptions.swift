import ArgumentParser
import GranuleCommandLine
import GranuleFiles
import GranuleTraining

/// The options of training on the command line; `TrainingConfiguration` has the defaults.
struct TrainingOptions: ParsableArguments {
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Range of sequences to use, such as 0-35. Default: all.")
  var sequences: SequenceRange?
  @Option(
    help: ArgumentHelp(
      "Number of sequences, from the end, to keep from training, for validation and calibration. "
        + "Default: a tenth of them."))
  var heldOutSequences: Int?
  @Option(
    help: ArgumentHelp(
      "Largest number of held-out tokens to validate and calibrate on, spread over their sequences. "
        + "Default: 100000."))
  var validationTokens: Int?
  @Option(help: "Number of latents, N.")
  var latents: Int?
  @Option(
    help: ArgumentHelp(
      "Rule that keeps codes sparse: topk, batchtopk, jumprelu or relu (with L1). Default: topk; "
        + "batchtopk with a core and in distill, because no other rule can exempt a core."),
    transform: choice)
  var objective: TrainingObjective.Kind?
  @Option(help: "Number of active latents per token at full size, for topk and batchtopk.")
  var k: Int?
  @Option(
    help: "Prefixes to train, ascending, the last one N. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Weights of the prefixes' losses, such as 1,1,2,2,4. Default: equal.")
  var granularityWeights: Numbers?
  @Option(
    help: ArgumentHelp(
      "Number of prefixes to draw anew at each step, N always among them; --granularities are then "
        + "only calibrated. Default: train --granularities."))
  var sampleGranularities: Int?
  @Option(
    help: ArgumentHelp(
      "Weight of the penalty of jumprelu and relu. Default: 1 with --target-l0, otherwise 0.001."))
  var sparsityCoefficient: Double?
  @Option(help: "Penalty of jumprelu: l0 or tanh. Default: l0.", transform: choice)
  var sparsityPenalty: SparsityPenalty?
  @Option(help: "Mean L0 that the penalty (L0 / target − 1)² pulls jumprelu to.")
  var targetL0: Double?
  @Option(
    help: ArgumentHelp(
      "Number of steps over which the penalty's weight grows linearly. Default: a tenth of the run."
    ))
  var sparsityWarmUpSteps: Int?
  @Option(
    help: ArgumentHelp(
      "Distance from its threshold within which a pre-activation of jumprelu moves the threshold, for "
        + "activations of norm √d_model. Default: 0.05."))
  var bandwidth: Double?
  @Option(
    help: ArgumentHelp(
      "Thresholds of jumprelu at the start. Default: the value that leaves the target L0 active, or a "
        + "quarter of d_model without a target."))
  var initialThreshold: Double?
  @Option(help: "Scale inside the tanh penalty. Default: 4.")
  var tanhScale: Double?
  @Option(
    help: "Number of tokens to train on; activations are reused in a new order when they run out.")
  var tokens: Int?
  @Option(
    help: ArgumentHelp(
      "JSON file of options, such as another run's config.json; options on the command line override "
        + "it, and its defaults are computed again from all of them. With --activations, the file's "
        + "language model and hook are ignored."))
  var config: String?
  @Option(help: "Number of tokens per step. Default: 2048.")
  var batch: Int?
  @Option(help: "Learning rate of Adam after the warm-up. Default: 2e-4 / √(N / 16384).")
  var learningRate: Double?
  @Option(help: "Number of steps of linear warm-up. Default: 5 % of the run, at most 1000.")
  var warmUpSteps: Int?
  @Option(help: "Number of steps of linear decay at the end. Default: a fifth of the run.")
  var decaySteps: Int?
  @Option(help: "Decoupled weight decay (AdamW). Default: 0.")
  var weightDecay: Double?
  @Option(help: "Decay rate β₁ of Adam's mean of gradients. Default: 0.9.")
  var beta1: Double?
  @Option(help: "Decay rate β₂ of Adam's mean of squared gradients. Default: 0.999.")
  var beta2: Double?
  @Option(
    help: "Largest norm of the gradient; a larger one is scaled down, 0 sets no limit. Default: 1.")
  var gradientNorm: Double?
  @Option(
    help: ArgumentHelp(
      "Weight of the auxiliary loss that revives dead latents. Default: 1/32 for topk and batchtopk, "
        + "otherwise 0."))
  var auxiliaryCoefficient: Double?
  @Option(
    help: ArgumentHelp(
      "Largest number of dead latents per token in the auxiliary loss. Default: d_model / 2."))
  var auxiliaryLatents: Int?
  @Option(
    help: ArgumentHelp(
      "Number of tokens without activity after which a latent counts as dead. Default: 10 million, or "
        + "a tenth of --tokens if that is less."))
  var deadAfter: Int?
  @Option(help: "Seed of the initial weights and of the order of tokens. Default: 0.")
  var seed: UInt64?
  @Option(
    help: ArgumentHelp(
      "Number of steps from one checkpoint to the next. Default: a quarter of the run, at most 1000."
    ))
  var checkpointEvery: Int?
  @Option(help: "Number of newest checkpoints to keep. Default: 2.")
  var keepCheckpoints: Int?
  @Option(
    help: ArgumentHelp(
      "Number of steps, with a loss above ten times its running median, after which the run stops. "
        + "Default: 50."))
  var divergenceSteps: Int?
  @Option(
    help: ArgumentHelp(
      "Folder of a core to begin with: a distillation, or a dictionary trained with a core; needs "
        + "batchtopk. Its encoder vectors become the first latents of every prefix, and every "
        + "granularity but N counts the latents after them."))
  var core: String?
  @Flag(help: "Train the core's encoder vectors, which otherwise stay as they are.")
  var trainCoreEncoders = false
  @Option(
    help: ArgumentHelp(
      "Name of the language model that the activations come from, kept as provenance. "
        + "Default: the one that harvested files name."))
  var languageModel: String?
  @Option(
    help: ArgumentHelp(
      "Hook point of the activations, such as blocks.10.hook_resid_pre. Default: the one that "
        + "harvested files name."))
  var hook: String?

  /// An option on the command line: its name, its key in the configuration's file, and its value.
  typealias Given = (option: String, key: String, value: JSONValue)

  /// The options on the command line.
  var given: [Given] { givenData + givenObjective + givenOptimization + givenCare }

  private func given(_ option: String, _ key: String, _ value: JSONValue?) -> [Given] {
    value.map { [(option, key, $0)] } ?? []
  }
  private func given(_ option: String, _ key: String, _ value: Int?) -> [Given] {
    given(option, key, value.map { JSONValue($0) })
  }
  private func given(_ option: String, _ key: String, _ value: Double?) -> [Given] {
    given(option, key, value.map { .real($0) })
  }
  private func given(_ option: String, _ key: String, _ value: String?) -> [Given] {
    given(option, key, value.map { .string($0) })
  }

  private var givenData: [Given] {
    given(
      "--activations", "activations",
      activations.isEmpty ? nil : .array(activations.map { .string($0) }))
      + given(
        "--sequences", "sequences",
        sequences.map { [JSONValue($0.range.lowerBound), JSONValue($0.range.upperBound - 1)] })
      + given("--held-out-sequences", "held_out_sequences", heldOutSequences)
      + given("--validation-tokens", "validation_tokens", validationTokens)
      + given("--language-model", "language_model", languageModel)
      + given("--hook", "hook", hook)
  }

  private var givenObjective: [Given] {
    given("--latents", "latents", latents)
      + given("--objective", "objective", objective?.rawValue)
      + given("--k", "k", k)
      + given(
        "--granularities", "granularities",
        granularities.map { .array($0.values.map { JSONValue($0) }) })
      + given(
        "--granularity-weights", "granularity_weights",
        granularityWeights.map { .array($0.values.map { .real($0) }) })
      + given("--sample-granularities", "sampled_granularities", sampleGranularities)
      + given("--sparsity-coefficient", "sparsity_coefficient", sparsityCoefficient)
      + given("--sparsity-penalty", "sparsity_penalty", sparsityPenalty?.rawValue)
      + given("--target-l0", "target_l0", targetL0)
      + given("--sparsity-warm-up-steps", "sparsity_warm_up_steps", sparsityWarmUpSteps)
      + given("--bandwidth", "bandwidth", bandwidth)
      + given("--initial-threshold", "initial_threshold", initialThreshold)
      + given("--tanh-scale", "tanh_scale", tanhScale)
      + given("--core", "core", core)
      + given(
        "--train-core-encoders", "trains_core_encoders", trainCoreEncoders ? .bool(true) : nil)
  }

  private var givenOptimization: [Given] {
    given("--tokens", "tokens", tokens)
      + given("--batch", "batch_tokens", batch)
      + given("--learning-rate", "learning_rate", learningRate)
      + given("--warm-up-steps", "warm_up_steps", warmUpSteps)
      + given("--decay-steps", "decay_steps", decaySteps)
      + given("--weight-decay", "weight_decay", weightDecay)
      + given("--beta1", "beta1", beta1)
      + given("--beta2", "beta2", beta2)
      + given("--gradient-norm", "gradient_norm_max", gradientNorm)
      + given("--seed", "seed", seed.map { .integer(Int64(bitPattern: $0)) })
  }

  private var givenCare: [Given] {
    given("--auxiliary-coefficient", "auxiliary_coefficient", auxiliaryCoefficient)
      + given("--auxiliary-latents", "auxiliary_latents", auxiliaryLatents)
      + given("--dead-after", "dead_after_tokens", deadAfter)
      + given("--checkpoint-every", "checkpoint_every_steps", checkpointEvery)
      + given("--keep-checkpoints", "checkpoints_kept", keepCheckpoints)
      + given("--divergence-steps", "divergence_steps", divergenceSteps)
  }

  /// - Throws: `ValidationError` naming an option that is needed and missing.
  func require(k needsK: Bool) throws {
    guard config == nil else { return }
    for (option, isMissing) in [
      ("--activations", activations.isEmpty), ("--latents", latents == nil),
      ("--k", k == nil && needsK), ("--tokens", tokens == nil),
    ] where isMissing {
      throw ValidationError("\(option) is needed, unless --config or --resume gives it")
    }
  }

  /// - Throws: `ValidationError` if any option is given although the run has its own.
  func requireNone() throws {
    let options = given.map(\.option) + (config == nil ? [] : ["--config"])
    guard options.isEmpty else {
      throw ValidationError(
        "--resume continues with the run's own configuration: leave out "
          + options.joined(separator: ", "))
    }
  }

  /// - Throws: `ValidationError` naming an option that does nothing in this configuration.
  private func requireUse(in configuration: TrainingConfiguration) throws {
    let objective = configuration.objective.kind
    func refuse(_ option: String, _ isGiven: Bool, unless isUsed: Bool, _ use: String) throws {
      guard isGiven, !isUsed else { return }
      throw ValidationError(
        "\(option) does nothing with --objective \(objective.rawValue), because it is \(use): leave it "
          + "out")
    }
    let hasThresholds = objective == .jumprelu
    try refuse("--k", k != nil, unless: objective.hasK, "for topk and batchtopk")
    for (option, isGiven) in [
      ("--sparsity-coefficient", sparsityCoefficient != nil),
      ("--sparsity-warm-up-steps", sparsityWarmUpSteps != nil),
    ] {
      try refuse(option, isGiven, unless: !objective.hasK, "for jumprelu and relu")
    }
    for (option, isGiven) in [
      ("--target-l0", targetL0 != nil), ("--sparsity-penalty", sparsityPenalty != nil),
      ("--bandwidth", bandwidth != nil), ("--initial-threshold", initialThreshold != nil),
      ("--tanh-scale", tanhScale != nil),
    ] {
      try refuse(option, isGiven, unless: hasThresholds, "for jumprelu")
    }
    let settings = configuration.objective.jumpReLU
    if settings?.targetL0 != nil, sparsityPenalty == .tanh || tanhScale != nil {
      throw ValidationError(
        "\(tanhScale != nil ? "--tanh-scale" : "--sparsity-penalty tanh") does nothing with a target "
          + "L0, which penalises L0 itself: leave one of them out")
    }
    let isTanh = if case .tanh? = settings?.penalty { true } else { false }
    if tanhScale != nil, !isTanh {
      throw ValidationError(
        "--tanh-scale does nothing without --sparsity-penalty tanh: leave it out, or add that")
    }
    if auxiliaryLatents != nil, configuration.auxiliary == nil {
      throw ValidationError(
        "--auxiliary-latents does nothing with an auxiliary coefficient of 0: leave it out, or give "
          + "--auxiliary-coefficient")
    }
  }

  /// The configuration that the options, and the file that --config names, ask for.
  ///
  /// - Parameter objective: the objective if neither names one.
  func configuration(objective: TrainingObjective.Kind? = nil) throws -> TrainingConfiguration {
    let given = given
    var members: [JSONValue.Member] = []
    if let config {
      let file = try JSONReader(kept: config).value
      guard let stored = file.members else {
        throw CommandError.input("\(config) is \(file.kind), but an object of options is needed")
      }
      // The file's facts on activations and core are wrong for those given here.
      let keys = given.map(\.key)
      let found =
        (keys.contains("activations") ? ["hook", "language_model"] : [])
        + (keys.contains("core") ? ["core_latents"] : [])
      members = TrainingConfiguration.withoutDerivedDefaults(stored).filter {
        !keys.contains($0.key) && !found.contains($0.key)
      }
    }
    members += given.map { JSONValue.Member($0.key, $0.value) }
    let objective = objective ?? (members.contains { $0.key == "core" } ? .batchtopk : nil)
    if let objective, !members.contains(where: { $0.key == "objective" }) {
      members.append(.init("objective", .string(objective.rawValue)))
    }
    let configuration = try TrainingConfiguration(
      json: .object(members), source: config ?? "options")
    try requireUse(in: configuration)
    return configuration
  }
}
