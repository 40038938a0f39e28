internal import GranuleData
public import GranuleErrors
internal import GranuleFiles
internal import GranuleObjective
internal import GranuleRepository
public import GranuleRun
internal import GranuleTensors

/// Everything that decides what a distillation makes; saved in its folder.
public struct DistillationConfiguration: Sendable, Equatable {
  static let fileName = StartingCore.distillationFileName

  /// How each cycle trains; its tokens are a cycle's, its core, if any, the first cycle's.
  public var training: TrainingConfiguration
  /// Whether cycles train the encoder vectors of the core that they begin with.
  public var trainsCoreEncoders: Bool
  /// Number of cycles; the paper's, seven.
  public var cycles = 7
  /// The share of all attribution that the latents selected must have.
  public var coverage = 0.9
  /// How attributions at single tokens become a latent's score.
  public var aggregation = AttributionAggregation.standard
  /// Tokens to attribute in each cycle.
  public var attributionTokens = 65_536
  /// The language model's GGUF file.
  public var model: String
  /// Text files and folders to attribute on; empty: those that were harvested.
  public var text: [String] = []
  /// The text's files when the distillation began; nil: not known.
  var textFiles: [Fingerprint]?
  /// Which features make the final core; nil: those selected in at least half of the cycles.
  public var coreRule: CoreRule?
  /// The model repository to publish each cycle's dictionary in; nil: it is not published.
  public var repository: String?
  /// The model's name there.
  public var publishedName = ""

  private static let trainsCoreKey = "trains_core_encoders"
  /// The most tokens attributed: every active latent of each is kept, with four bytes.
  public static let attributionTokensMax = 1 << 22

  /// Defaults for all but how a cycle trains and which language model the activations are of.
  public init(training: TrainingConfiguration, model: String) {
    self.training = training
    trainsCoreEncoders = training.objective.core?.trainsEncoders ?? false
    self.model = model
  }

  /// `coreRule`, or the standard rule for this number of cycles.
  public var rule: CoreRule { coreRule ?? .standard(cycles: cycles) }

  /// How a cycle trains, counted from 1.
  func training(cycle: Int, core: String?) -> TrainingConfiguration {
    var result = training
    if let core {
      result.objective = .batchtopk(
        k: training.objective.k ?? 0,
        core: .init(folder: core, trainsEncoders: trainsCoreEncoders))
    }
    // Other weights and another order in each; two distillations with seeds next to each other share
    // none.
    result.seed = (training.seed &+ 1) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(cycle)
    return result
  }

  /// - Throws: `TrainingError` naming the option that is out of bounds.
  public func validate() throws(TrainingError) {
    try TrainingError.require((1...1000).contains(cycles), "cycles", cycles, "in 1 … 1000")
    try CoreSelection.validate(coverage: coverage)
    try aggregation.validate()
    let tokens = TextSequences.attributableTokens...Self.attributionTokensMax
    try TrainingError.require(
      tokens.contains(attributionTokens), "attribution tokens", attributionTokens,
      "in \(tokens.lowerBound) … \(tokens.upperBound)")
    try rule.validate(cycles: cycles)
    let objective = training.objective.kind
    guard objective == .batchtopk else {
      throw TrainingError(
        .invalid(field: "objective", value: objective.rawValue, limit: "batchtopk"),
        "the objective is \(objective.rawValue): distillation needs batchtopk, from whose selection "
          + "a core can be exempt")
    }
    if let count = training.sampledGranularities {
      throw TrainingError(
        .invalid(field: "sampled granularities", value: "\(count)", limit: "left out"),
        "sampled granularities have no innermost one to attribute in: leave the option out")
    }
    if repository != nil {
      try TrainingError.require(
        ModelRepository.isValidName(publishedName), "the name to publish as", publishedName,
        "made of letters, digits, '.', '_' and '-'")
    }
    try training.validate()
  }

  /// A training without a core does not say whether it would train one's encoders; cycles must know.
  private var trainingJSON: JSONValue {
    .object(
      (training.json.members ?? []).map {
        $0.key == Self.trainsCoreKey ? .init($0.key, .bool(trainsCoreEncoders)) : $0
      })
  }

  private var json: JSONValue {
    var members: [JSONValue.Member] = [
      .init("format", 1), .init("training", trainingJSON), .init("cycles", JSONValue(cycles)),
      .init("coverage", JSONValue(coverage)),
    ]
    switch aggregation {
    case .meanAbsolute: members.append(.init("aggregation", "mean-abs"))
    case .quantile(let quantile, let positions):
      members.append(.init("aggregation", "quantile"))
      members.append(.init("quantile", JSONValue(quantile)))
      members.append(.init("quantile_over", .string(positions.rawValue)))
    }
    members += [
      .init("attribution_tokens", JSONValue(attributionTokens)), .init("model", .string(model)),
      .init("text", .array(text.map { .string($0) })), .init("core_rule", .string(rule.text)),
    ]
    if let textFiles { members.append(.init("text_files", .array(textFiles.map(\.textJSON)))) }
    if let repository {
      members.append(.init("repository", .string(repository)))
      members.append(.init("published_name", .string(publishedName)))
    }
    return .object(members)
  }

  func write(to folder: String) throws(FileError) {
    try DurableFile.replace(
      "\(folder)/\(Self.fileName)", with: StrictJSON.text(json, indented: true) + "\n")
  }

  /// Reads the configuration of a distillation.
  ///
  /// - Throws: `TrainingError` or `FileError`, naming the key that is missing or wrong.
  public init(folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    let root = try JSONReader(kept: path)
    try root.requireFormat(1)
    let stored = try root.required("training")
    training = try TrainingConfiguration(json: stored.value, source: "\(path): training")
    trainsCoreEncoders = try stored[Self.trainsCoreKey]?.bool() ?? false
    cycles = try root.required("cycles").integer()
    coverage = try root.required("coverage").number()
    let aggregation = try root.required("aggregation")
    switch try aggregation.string() {
    case "mean-abs": self.aggregation = .meanAbsolute
    case "quantile":
      self.aggregation = .quantile(
        try root.required("quantile").number(), over: try root.required("quantile_over").choice())
    default: throw aggregation.fault("is neither mean-abs nor quantile")
    }
    attributionTokens = try root.required("attribution_tokens").integer()
    model = try root.required("model").string()
    text = try root.required("text").elements().map { try $0.string() }
    textFiles = try root["text_files"]?.elements().map { try Fingerprint(text: $0) }
    let rule = try root.required("core_rule")
    coreRule = CoreRule(try rule.string())
    guard coreRule != nil else {
      throw rule.fault("is \(rule.excerpt), it must be last, intersection:N or votes:N")
    }
    if let repository = root["repository"] {
      self.repository = try repository.string()
      publishedName = try root.required("published_name").string()
    }
    try validate()
  }
}
