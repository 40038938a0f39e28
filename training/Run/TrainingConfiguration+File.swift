internal import GranuleData
internal import GranuleDictionary
package import GranuleErrors
package import GranuleFiles
internal import GranuleObjective
internal import GranuleTensors

// The configuration as JSON: a run's `config.json`, which has every key that is set, and whatever a user
// writes by hand, where those that have defaults may be missing.
extension TrainingConfiguration {
  package static let fileName = "config.json"
  private static let format = 1

  /// One key of the file.
  private struct Field {
    let key: String
    /// nil where there is nothing to write.
    let write: (TrainingConfiguration) -> JSONValue?
    /// false where the value is of the wrong kind.
    let read: (inout TrainingConfiguration, JSONValue) -> Bool

    init<Value>(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Value>,
      write: @escaping (Value) -> JSONValue?, read: @escaping (JSONValue) -> Value?
    ) {
      self.key = key
      self.write = { write($0[keyPath: path]) }
      self.read = { configuration, json in
        guard let value = read(json) else { return false }
        configuration[keyPath: path] = value
        return true
      }
    }

    static func integer(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Int>
    ) -> Field {
      Field(key, path, write: { JSONValue($0) }, read: \.integer)
    }

    static func integer(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Int?>
    ) -> Field {
      Field(key, path, write: { $0.map { JSONValue($0) } }, read: { .some($0.integer) })
        .refusing { $0.integer == nil }
    }

    static func number(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Double>
    ) -> Field {
      Field(key, path, write: { JSONValue($0) }, read: \.number)
    }

    static func number(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Double?>
    ) -> Field {
      Field(key, path, write: { $0.map { JSONValue($0) } }, read: { .some($0.number) })
        .refusing { $0.number == nil }
    }

    static func string(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, String>
    ) -> Field {
      Field(key, path, write: { .string($0) }, read: \.string)
    }

    static func flag(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Bool>
    ) -> Field {
      Field(key, path, write: { .bool($0) }, read: \.bool)
    }

    static func choice<Value: RawRepresentable<String>>(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, Value>
    ) -> Field {
      Field(
        key, path, write: { .string($0.rawValue) },
        read: { $0.string.flatMap { Value(rawValue: $0) } })
    }

    static func list<Element>(
      _ key: String, _ path: WritableKeyPath<TrainingConfiguration, [Element]>,
      write: @escaping (Element) -> JSONValue, read: @escaping (JSONValue) -> Element?
    ) -> Field {
      Field(
        key, path, write: { .array($0.map(write)) },
        read: { json in
          guard let elements = json.elements else { return nil }
          let values = elements.compactMap(read)
          return values.count == elements.count ? values : nil
        })
    }

    private init(
      key: String, write: @escaping (TrainingConfiguration) -> JSONValue?,
      read: @escaping (inout TrainingConfiguration, JSONValue) -> Bool
    ) {
      self.key = key
      self.write = write
      self.read = read
    }

    private func refusing(_ isWrong: @escaping (JSONValue) -> Bool) -> Field {
      let read = read
      return Field(
        key: key, write: write, read: { !isWrong($1) && read(&$0, $1) })
    }
  }

  private static var fields: [Field] {
    [
      .list("activations", \.activations, write: { .string($0) }, read: \.string),
      Field(
        "sequences", \.sequences,
        write: { $0.map { [JSONValue($0.lowerBound), JSONValue($0.upperBound - 1)] } },
        read: { json in
          guard let ends = json.elements?.compactMap(\.integer), ends.count == 2, 0 <= ends[0],
            ends[0] <= ends[1], ends[1] < 1 << 40
          else { return nil }
          return ends[0]..<ends[1] + 1
        }),
      .integer("held_out_sequences", \.heldOutSequences),
      .integer("validation_tokens", \.validationTokens),
      .integer("latents", \.latents),
      .choice("objective", \.objective),
      .list("granularities", \.granularities, write: { JSONValue($0) }, read: \.integer),
      Field(
        "granularity_weights", \.granularityWeights,
        write: { $0.map { .array($0.map { JSONValue($0) }) } },
        read: { json in
          guard let elements = json.elements else { return nil }
          let values = elements.compactMap(\.number)
          return values.count == elements.count ? values : nil
        }),
      .integer("sampled_granularities", \.sampledGranularities),
      .integer("k", \.k),
      .number("sparsity_coefficient", \.sparsityCoefficient),
      .choice("sparsity_penalty", \.sparsityPenalty),
      .number("target_l0", \.targetL0),
      .integer("sparsity_warm_up_steps", \.sparsityWarmUpSteps),
      .number("bandwidth", \.bandwidth),
      .number("initial_threshold", \.initialThreshold),
      .number("tanh_scale", \.tanhScale),
      .integer("tokens", \.tokens),
      .integer("batch_tokens", \.batchTokens),
      .number("learning_rate", \.learningRate),
      .integer("warm_up_steps", \.warmUpSteps),
      .integer("decay_steps", \.decaySteps),
      .number("weight_decay", \.weightDecay),
      .number("beta1", \.beta1),
      .number("beta2", \.beta2),
      .number("gradient_norm_max", \.gradientNormMax),
      .number("auxiliary_coefficient", \.auxiliaryCoefficient),
      .integer("auxiliary_latents", \.auxiliaryLatents),
      .integer("dead_after_tokens", \.deadAfterTokens),
      Field(
        "seed", \.seed, write: { .integer(Int64(bitPattern: $0)) },
        read: { $0.integer.map { UInt64(bitPattern: Int64($0)) } }),
      .integer("checkpoint_every_steps", \.checkpointEverySteps),
      .integer("checkpoints_kept", \.checkpointsKept),
      .integer("divergence_steps", \.divergenceSteps),
      .string("core", \.core),
      .integer("core_latents", \.coreLatents),
      .flag("trains_core_encoders", \.trainsCoreEncoders),
      .string("language_model", \.languageModel),
      Field(
        "hook", \.hook, write: { .string($0.name) }, read: { $0.string.map { HookPoint($0) } }),
    ]
  }

  /// Every key that is set, as JSON.
  package var json: JSONValue {
    .object(
      [.init("format", JSONValue(Self.format))]
        + Self.fields.compactMap { field in
          field.write(self).map { JSONValue.Member(field.key, $0) }
        })
  }

  /// A configuration from JSON; keys that are missing have their defaults.
  ///
  /// - Parameter source: where it comes from, for messages.
  /// - Throws: `TrainingError` naming the key that is missing, unknown, or of the wrong kind.
  package init(json: JSONValue, source: String) throws(TrainingError) {
    guard let members = json.members else {
      throw TrainingError("\(source): is \(json.kind), an object is needed")
    }
    let fields = Self.fields
    for member in members where member.key != "format" {
      guard fields.contains(where: { $0.key == member.key }) else {
        throw TrainingError(
          "\(source): \(member.key) is unknown; there are "
            + fields.map(\.key).joined(separator: ", "))
      }
    }
    if let format = json["format"], format.integer != Self.format {
      throw TrainingError("\(source): has another format than 1, which this Granule reads")
    }
    func required<T>(_ key: String, _ value: (JSONValue) -> T?) throws(TrainingError) -> T {
      guard let member = json[key] else { throw TrainingError("\(source): \(key) is missing") }
      guard let result = value(member) else { throw Self.wrongKind(source, key, member) }
      return result
    }
    let objective =
      try json["objective"] == nil
      ? .topk : required("objective") { $0.string.flatMap(TrainingObjective.init) }
    self.init(
      activations: [], latents: try required("latents", \.integer),
      k: objective.hasK ? try required("k", \.integer) : 0,
      tokens: try required("tokens", \.integer),
      batchTokens: try json["batch_tokens"] == nil ? 2048 : required("batch_tokens", \.integer),
      objective: objective)
    if json["activations"] == nil { throw TrainingError("\(source): activations is missing") }
    for field in fields {
      guard let value = json[field.key] else { continue }
      guard field.read(&self, value) else { throw Self.wrongKind(source, field.key, value) }
    }
    try validate()
  }

  /// Of a file's members those to begin another configuration with: without the defaults that follow
  /// from others, which may be others there.
  package static func withoutDerivedDefaults(
    _ members: [JSONValue.Member]
  ) -> [JSONValue.Member] {
    func integer(_ key: String) -> Int? { members.first { $0.key == key }?.value.integer }
    let objective = members.first { $0.key == "objective" }?.value.string
    guard let latents = integer("latents"), let tokens = integer("tokens") else { return members }
    let defaults = TrainingConfiguration(
      activations: [], latents: latents, k: integer("k") ?? 0, tokens: tokens,
      batchTokens: integer("batch_tokens") ?? 2048,
      objective: objective.flatMap(TrainingObjective.init) ?? .topk
    ).json
    return members.filter { member in
      switch member.key {
      case "auxiliary_coefficient", "checkpoint_every_steps", "dead_after_tokens", "learning_rate":
        member.value.number != defaults[member.key]?.number
      case "granularities":
        member.value.elements?.map(\.integer) != defaults[member.key]?.elements?.map(\.integer)
      default: true
      }
    }
  }

  private static func wrongKind(
    _ source: String, _ key: String, _ value: JSONValue
  ) -> TrainingError {
    TrainingError("\(source): \(key) is \(StrictJSON.text(value)), which it cannot be")
  }

  /// Writes `config.json` into a run's folder.
  func write(to run: String) throws(FileError) {
    try DurableFile.replace(
      "\(run)/\(Self.fileName)", with: StrictJSON.text(json, indented: true) + "\n")
  }

  /// Reads `config.json` of a run.
  ///
  /// - Throws: `TrainingError` or `FileError`, naming the key that is missing or wrong.
  public init(run: String) throws {
    let path = "\(run)/\(Self.fileName)"
    try self.init(json: JSONReader(kept: path).value, source: path)
  }
}
