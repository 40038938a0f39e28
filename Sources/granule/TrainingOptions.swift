import ArgumentParser
import GranuleFiles
import GranuleTraining

/// How a dictionary is trained, on the command line; what is not given is as
/// `TrainingConfiguration` has it.
struct TrainingOptions: ParsableArguments {
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 0-35.")
  var sequences: SequenceRange?
  @Option(
    help: ArgumentHelp(
      "Keep the last so many sequences from training, to validate and calibrate on. "
        + "Default: a tenth of them."))
  var heldOutSequences: Int?
  @Option(
    help: ArgumentHelp(
      "Validate and calibrate on at most so many tokens, spread over the sequences held out. "
        + "Default: 100000."))
  var validationTokens: Int?
  @Option(help: "Dictionary size N.")
  var latents: Int?
  @Option(
    help: ArgumentHelp(
      "How codes are kept sparse: topk, batchtopk, jumprelu or relu (with L1). Default: topk; with "
        + "a core, and to distil, batchtopk, which alone can exempt one."),
    transform: choice)
  var objective: TrainingObjective?
  @Option(help: "Active latents a token in the full dictionary, for topk and batchtopk.")
  var k: Int?
  @Option(help: "Prefixes to train, ascending, the last N. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Weights of their losses, such as 1,1,2,2,4. Default: all the same.")
  var granularityWeights: Numbers?
  @Option(
    help: ArgumentHelp(
      "Train on so many prefixes that are drawn anew at each step, N always among them, instead of "
        + "the same ones. --granularities are those that the dictionary is calibrated for."))
  var sampleGranularities: Int?
  @Option(
    help: "Weight of jumprelu's and relu's penalty. Default: 1 with a target L0, else 0.001.")
  var sparsityCoefficient: Double?
  @Option(help: "What jumprelu penalises: l0 or tanh. Default: l0.", transform: choice)
  var sparsityPenalty: SparsityPenalty?
  @Option(help: "The mean L0 that jumprelu is drawn to, by the penalty (L0 / target − 1)².")
  var targetL0: Double?
  @Option(help: "Steps over which that weight grows linearly. Default: a tenth of the run.")
  var sparsityWarmUpSteps: Int?
  @Option(
    help: ArgumentHelp(
      "Width within which jumprelu's pre-activations move their thresholds, where activations have "
        + "norm √d_model. Default: 0.05."))
  var bandwidth: Double?
  @Option(
    help: ArgumentHelp(
      "jumprelu's thresholds at the start. Default: that which leaves the target L0 active, without "
        + "one a quarter of d_model."))
  var initialThreshold: Double?
  @Option(help: "Scale within the tanh penalty. Default: 4.")
  var tanhScale: Double?
  @Option(help: "Tokens to train on; activations are reused in new order when they run out.")
  var tokens: Int?
  @Option(
    help: ArgumentHelp(
      "A JSON file of options, such as another run's config.json; those given here go before it. With "
        + "--activations it does not say where those come from, and what it has by default follows "
        + "from the options here."))
  var config: String?
  @Option(help: "Tokens a step. Default: 2048.")
  var batch: Int?
  @Option(help: "Adam's learning rate after warm-up. Default: 2e-4 / √(N / 16384).")
  var learningRate: Double?
  @Option(help: "Steps of linear warm-up. Default: 5 % of the run, at most 1000.")
  var warmUpSteps: Int?
  @Option(help: "Steps of linear decay at the end. Default: a fifth of the run.")
  var decaySteps: Int?
  @Option(help: "Decoupled weight decay (AdamW). Default: 0.")
  var weightDecay: Double?
  @Option(help: "Adam's β₁, of its mean of gradients. Default: 0.9.")
  var beta1: Double?
  @Option(help: "Adam's β₂, of its mean of squared gradients. Default: 0.999.")
  var beta2: Double?
  @Option(
    help: "Largest norm of the gradient; larger ones are scaled down. 0: no limit. Default: 1.")
  var gradientNorm: Double?
  @Option(
    help: ArgumentHelp(
      "Weight of the auxiliary loss that revives dead latents. Default: 1/32 for topk and batchtopk, "
        + "else 0."))
  var auxiliaryCoefficient: Double?
  @Option(
    help: "The most dead latents that the auxiliary loss may use a token. Default: d_model / 2.")
  var auxiliaryLatents: Int?
  @Option(
    help: ArgumentHelp(
      "A latent is dead after so many tokens without being active. Default: 10 million, in shorter "
        + "runs a tenth of --tokens."))
  var deadAfter: Int?
  @Option(help: "Seed of initial weights and of the order of tokens. Default: 0.")
  var seed: UInt64?
  @Option(
    help: "Steps from one checkpoint to the next. Default: a quarter of the run, at most 1000.")
  var checkpointEvery: Int?
  @Option(help: "How many of the newest checkpoints stay. Default: 2.")
  var keepCheckpoints: Int?
  @Option(
    help: ArgumentHelp(
      "Stop when the loss was more than ten times its running median for so many steps. Default: 50."
    ))
  var divergenceSteps: Int?
  @Option(
    help: ArgumentHelp(
      "Begin with this core, of granule distill or of a dictionary trained with one, for batchtopk: its "
        + "encoder vectors are the first latents', in every prefix, and --granularities count what "
        + "comes after them, but for the last, N."))
  var core: String?
  @Flag(help: "Train the core's encoder vectors, too, which else stay as they are.")
  var trainCoreEncoders = false
  @Option(
    help: ArgumentHelp(
      "Name of the language model that the activations come from, kept as provenance. "
        + "Default: what harvested files say."))
  var languageModel: String?
  @Option(
    help: "Where in that model, such as blocks.10.hook_resid_pre. Default: what the files say.")
  var hook: String?

  /// What was given on the command line, as the configuration's file has it, and by which option.
  var given: [(option: String, key: String, value: JSONValue)] {
    var given: [(option: String, key: String, value: JSONValue)] = []
    func add<Value>(
      _ option: String, _ key: String, _ value: Value?, _ json: (Value) -> JSONValue
    ) {
      if let value { given.append((option, key, json(value))) }
    }
    func add(_ option: String, _ key: String, _ value: Int?) {
      add(option, key, value) { JSONValue($0) }
    }
    func add(_ option: String, _ key: String, _ value: Double?) {
      add(option, key, value) { .real($0) }
    }
    func add(_ option: String, _ key: String, _ value: String?) {
      add(option, key, value) { .string($0) }
    }
    add("--activations", "activations", activations.isEmpty ? nil : activations) {
      .array($0.map { .string($0) })
    }
    add("--sequences", "sequences", sequences) {
      [JSONValue($0.range.lowerBound), JSONValue($0.range.upperBound - 1)]
    }
    add("--held-out-sequences", "held_out_sequences", heldOutSequences)
    add("--validation-tokens", "validation_tokens", validationTokens)
    add("--latents", "latents", latents)
    add("--objective", "objective", objective?.rawValue)
    add("--k", "k", k)
    add("--granularities", "granularities", granularities) {
      .array($0.values.map { JSONValue($0) })
    }
    add("--granularity-weights", "granularity_weights", granularityWeights) {
      .array($0.values.map { .real($0) })
    }
    add("--sample-granularities", "sampled_granularities", sampleGranularities)
    add("--sparsity-coefficient", "sparsity_coefficient", sparsityCoefficient)
    add("--sparsity-penalty", "sparsity_penalty", sparsityPenalty?.rawValue)
    add("--target-l0", "target_l0", targetL0)
    add("--sparsity-warm-up-steps", "sparsity_warm_up_steps", sparsityWarmUpSteps)
    add("--bandwidth", "bandwidth", bandwidth)
    add("--initial-threshold", "initial_threshold", initialThreshold)
    add("--tanh-scale", "tanh_scale", tanhScale)
    add("--tokens", "tokens", tokens)
    add("--batch", "batch_tokens", batch)
    add("--learning-rate", "learning_rate", learningRate)
    add("--warm-up-steps", "warm_up_steps", warmUpSteps)
    add("--decay-steps", "decay_steps", decaySteps)
    add("--weight-decay", "weight_decay", weightDecay)
    add("--beta1", "beta1", beta1)
    add("--beta2", "beta2", beta2)
    add("--gradient-norm", "gradient_norm_max", gradientNorm)
    add("--auxiliary-coefficient", "auxiliary_coefficient", auxiliaryCoefficient)
    add("--auxiliary-latents", "auxiliary_latents", auxiliaryLatents)
    add("--dead-after", "dead_after_tokens", deadAfter)
    add("--seed", "seed", seed) { .integer(Int64(bitPattern: $0)) }
    add("--checkpoint-every", "checkpoint_every_steps", checkpointEvery)
    add("--keep-checkpoints", "checkpoints_kept", keepCheckpoints)
    add("--divergence-steps", "divergence_steps", divergenceSteps)
    add("--core", "core", core)
    add("--train-core-encoders", "trains_core_encoders", trainCoreEncoders ? true : nil) {
      .bool($0)
    }
    add("--language-model", "language_model", languageModel)
    add("--hook", "hook", hook)
    return given
  }

  /// - Throws: `ValidationError` naming what is needed and not given.
  func require(k needsK: Bool) throws {
    guard config == nil else { return }
    if activations.isEmpty { throw ValidationError("--activations: at least one path is needed") }
    if latents == nil { throw ValidationError("--latents is needed") }
    if k == nil, needsK { throw ValidationError("--k is needed") }
    if tokens == nil { throw ValidationError("--tokens is needed") }
  }

  /// - Throws: `ValidationError` where anything is given though a run goes on with its own.
  func requireNone() throws {
    let options = given.map(\.option) + (config == nil ? [] : ["--config"])
    guard options.isEmpty else {
      throw ValidationError(
        "--resume goes on with the run's own configuration: leave out "
          + options.joined(separator: ", "))
    }
  }

  /// - Throws: `ValidationError` naming what was given and does nothing in this configuration.
  private func requireUse(in configuration: TrainingConfiguration) throws {
    let objective = configuration.objective
    func refuse(_ option: String, _ isGiven: Bool, unless isUsed: Bool, _ use: String) throws {
      guard isGiven, !isUsed else { return }
      throw ValidationError(
        "\(option) does nothing with --objective \(objective.rawValue), it is \(use): leave it out")
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
    if configuration.targetL0 != nil, sparsityPenalty == .tanh || tanhScale != nil {
      throw ValidationError(
        "\(tanhScale != nil ? "--tanh-scale" : "--sparsity-penalty tanh") does nothing beside a "
          + "target L0, whose penalty is of L0: leave one of them out")
    }
    if tanhScale != nil, configuration.sparsityPenalty != .tanh {
      throw ValidationError(
        "--tanh-scale is for --sparsity-penalty tanh: leave it out, or name that")
    }
    if auxiliaryLatents != nil, configuration.auxiliaryCoefficient == 0 {
      throw ValidationError(
        "--auxiliary-latents does nothing with an auxiliary coefficient of 0: leave it out, or give "
          + "--auxiliary-coefficient")
    }
  }

  /// The configuration that is asked for.
  ///
  /// - Parameter objective: the one to take where none is named.
  func configuration(objective: TrainingObjective? = nil) throws -> TrainingConfiguration {
    let given = given
    var members: [JSONValue.Member] = []
    if let config {
      let file = try JSONFile.read(config)
      guard let stored = file.members else {
        throw CommandError("\(config): is \(file.kind), an object of options is needed")
      }
      // What a run found out about activations or core, of which others are given here.
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
