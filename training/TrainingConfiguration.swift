internal import Glibc
internal import StrictJSON
internal import Tensors

/// Everything that decides what a training run makes; saved with the run.
public struct TrainingConfiguration: Sendable, Equatable {
  /// Files and folders of activations.
  public var activations: [String]
  /// Sequences to use, nil for all.
  public var sequences: Range<Int>?
  /// The last so many sequences are kept from training, to validate and calibrate on.
  public var heldOutSequences: Int
  /// Dictionary size N.
  public var latents: Int
  /// Prefixes whose reconstruction is trained, ascending; the last is N.
  public var granularities: [Int]
  /// Active latents a token, in the full dictionary.
  public var k: Int
  /// Tokens to train on, counting each time that one is seen.
  public var tokens: Int
  /// Tokens a step.
  public var batchTokens: Int
  /// Adam's learning rate after warm-up.
  public var learningRate: Double
  /// Decoupled weight decay (AdamW); 0 is Adam.
  public var weightDecay = 0.0
  /// Gradients are scaled so that their norm is at most this; 0 leaves them.
  public var gradientNormMax = 1.0
  /// Weight of the auxiliary loss that revives dead latents.
  public var auxiliaryCoefficient = 1.0 / 32
  /// A latent is dead once it has not been active for so many tokens.
  public var deadAfterTokens: Int
  /// Seed of the initial weights and of the order of tokens.
  public var seed: UInt64 = 0
  /// Steps from one checkpoint to the next.
  public var checkpointEverySteps: Int
  /// Provenance, written into the dictionary; "" if unknown.
  public var languageModel = ""
  /// Provenance: where in the language model, "" if unknown.
  public var hook = ""

  /// Defaults for a dictionary of a size: papers' where they state one, else those of the codebases
  /// that the field uses (learning rate 2·10⁻⁴ / √(N / 2¹⁴); dead after 10 million tokens, in a
  /// shorter run after a tenth of its tokens).
  public init(
    activations: [String], latents: Int, granularities: [Int], k: Int, tokens: Int,
    heldOutSequences: Int, batchTokens: Int = 2048
  ) {
    self.activations = activations
    self.latents = latents
    self.granularities = granularities
    self.k = k
    self.tokens = tokens
    self.heldOutSequences = heldOutSequences
    self.batchTokens = batchTokens
    learningRate = 2e-4 / (Double(latents) / 16384).squareRoot()
    deadAfterTokens = min(10_000_000, max(tokens / 10, 1))
    checkpointEverySteps = max(1, min(1000, tokens / max(batchTokens, 1) / 4))
  }

  /// Number of steps of the run; the last batch is whole.
  public var steps: Int { (tokens + batchTokens - 1) / batchTokens }

  /// The learning rate at a step, counted from 0: linear warm-up over 5 % of the steps, at most
  /// 1,000; then constant; linear decay to zero over the last fifth.
  public func learningRate(atStep step: Int) -> Double {
    let warmUp = max(1, min(1000, steps / 20))
    let decayStart = steps - steps / 5
    var factor = min(1, Double(step + 1) / Double(warmUp))
    if step >= decayStart { factor *= Double(steps - step) / Double(max(steps - decayStart, 1)) }
    return learningRate * factor
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
    try require((1...latents).contains(k), "k is \(k), it must be in 1 … \(latents), latents")
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
    try require(
      (0...1 << 40).contains(heldOutSequences),
      "held-out sequences is \(heldOutSequences), it must be in 0 … 2^40")
    try require(checkpointEverySteps >= 1, "checkpoint interval is \(checkpointEverySteps) steps")
    try require(deadAfterTokens >= 1, "dead after \(deadAfterTokens) tokens, at least 1 is needed")
  }

  static let fileName = "config.json"

  /// Writes `config.json` into a run's folder.
  func write(to run: String) throws(TensorFileError) {
    var members: [JSONValue.Member] = [
      .init("format", 1),
      .init("activations", .array(activations.map { .string($0) })),
      .init("held_out_sequences", JSONValue(heldOutSequences)),
      .init("latents", JSONValue(latents)),
      .init("granularities", .array(granularities.map { JSONValue($0) })),
      .init("k", JSONValue(k)),
      .init("tokens", JSONValue(tokens)),
      .init("batch_tokens", JSONValue(batchTokens)),
      .init("learning_rate", JSONValue(learningRate)),
      .init("weight_decay", JSONValue(weightDecay)),
      .init("gradient_norm_max", JSONValue(gradientNormMax)),
      .init("auxiliary_coefficient", JSONValue(auxiliaryCoefficient)),
      .init("dead_after_tokens", JSONValue(deadAfterTokens)),
      .init("seed", .integer(Int64(bitPattern: seed))),
      .init("checkpoint_every_steps", JSONValue(checkpointEverySteps)),
      .init("language_model", .string(languageModel)),
      .init("hook", .string(hook)),
    ]
    if let sequences {
      members.append(
        .init(
          "sequences", [JSONValue(sequences.lowerBound), JSONValue(sequences.upperBound - 1)]))
    }
    let text = StrictJSON.text(.object(members), indented: true) + "\n"
    try DurableFile.replace("\(run)/\(Self.fileName)", with: text)
  }

  /// Reads `config.json` of a run.
  ///
  /// - Throws: `TrainingError` or `TensorFileError`, naming the key that is missing or wrong.
  public init(run: String) throws {
    let path = "\(run)/\(Self.fileName)"
    let file = try FileBytes.read(path, byteCountMax: 1 << 20)
    let root: JSONValue
    do throws(StrictJSONError) { root = try StrictJSON.parse(file.bytes) } catch {
      throw TrainingError("\(path): is not valid JSON: \(error)")
    }
    func required<T>(_ key: String, _ value: (JSONValue) -> T?) throws(TrainingError) -> T {
      guard let json = root[key], let result = value(json) else {
        throw TrainingError("\(path): \(key) is missing or of the wrong kind")
      }
      return result
    }
    guard try required("format", \.integer) == 1 else {
      throw TrainingError("\(path): has another format than 1, which this Granule reads")
    }
    activations = try required("activations") { $0.elements?.compactMap(\.string) }
    heldOutSequences = try required("held_out_sequences", \.integer)
    latents = try required("latents", \.integer)
    granularities = try required("granularities") { $0.elements?.compactMap(\.integer) }
    k = try required("k", \.integer)
    tokens = try required("tokens", \.integer)
    batchTokens = try required("batch_tokens", \.integer)
    learningRate = try required("learning_rate", \.number)
    weightDecay = try required("weight_decay", \.number)
    gradientNormMax = try required("gradient_norm_max", \.number)
    auxiliaryCoefficient = try required("auxiliary_coefficient", \.number)
    deadAfterTokens = try required("dead_after_tokens", \.integer)
    seed = UInt64(bitPattern: Int64(try required("seed", \.integer)))
    checkpointEverySteps = try required("checkpoint_every_steps", \.integer)
    languageModel = try required("language_model", \.string)
    hook = try required("hook", \.string)
    if let range = root["sequences"]?.elements?.compactMap(\.integer), range.count == 2,
      0 <= range[0], range[0] <= range[1], range[1] < 1 << 40
    {
      sequences = range[0]..<range[1] + 1
    }
    try validate()
  }
}
