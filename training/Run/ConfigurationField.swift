internal import GranuleData
internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleObjective

/// One key of a configuration's file.
struct ConfigurationField {
  let key: String
  /// Returns nil if there is nothing to write.
  let write: (ConfigurationKeys) -> JSONValue?
  /// Returns false if the value is of the wrong kind.
  let read: (inout ConfigurationKeys, JSONValue) -> Bool

  init<Value>(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Value>,
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
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Int>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { JSONValue($0) }, read: \.integer)
  }

  static func integer(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Int?>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { $0.map { JSONValue($0) } }, read: { .some($0.integer) })
      .refusing { $0.integer == nil }
  }

  static func number(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Double>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { JSONValue($0) }, read: \.number)
  }

  static func number(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Double?>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { $0.map { JSONValue($0) } }, read: { .some($0.number) })
      .refusing { $0.number == nil }
  }

  static func string(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, String>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { .string($0) }, read: \.string)
  }

  static func flag(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Bool>
  ) -> ConfigurationField {
    ConfigurationField(key, path, write: { .bool($0) }, read: \.bool)
  }

  static func choice<Value: RawRepresentable<String>>(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, Value>
  ) -> ConfigurationField {
    ConfigurationField(
      key, path, write: { .string($0.rawValue) },
      read: { $0.string.flatMap { Value(rawValue: $0) } })
  }

  static func list<Element>(
    _ key: String, _ path: WritableKeyPath<ConfigurationKeys, [Element]>,
    write: @escaping (Element) -> JSONValue, read: @escaping (JSONValue) -> Element?
  ) -> ConfigurationField {
    ConfigurationField(
      key, path, write: { .array($0.map(write)) },
      read: { json in
        guard let elements = json.elements else { return nil }
        let values = elements.compactMap(read)
        return values.count == elements.count ? values : nil
      })
  }

  private init(
    key: String, write: @escaping (ConfigurationKeys) -> JSONValue?,
    read: @escaping (inout ConfigurationKeys, JSONValue) -> Bool
  ) {
    self.key = key
    self.write = write
    self.read = read
  }

  private func refusing(_ isWrong: @escaping (JSONValue) -> Bool) -> ConfigurationField {
    let read = read
    return ConfigurationField(
      key: key, write: write, read: { !isWrong($1) && read(&$0, $1) })
  }

  /// Every key, in the order of the file.
  static var all: [ConfigurationField] {
    [
      .list("activations", \.rest.activations.paths, write: { .string($0) }, read: \.string),
      ConfigurationField(
        "sequences", \.rest.activations.sequences,
        write: { $0.map { [JSONValue($0.lowerBound), JSONValue($0.upperBound - 1)] } },
        read: { json in
          guard let ends = json.elements?.compactMap(\.integer), ends.count == 2, 0 <= ends[0],
            ends[0] <= ends[1], ends[1] < 1 << 40
          else { return nil }
          return ends[0]..<ends[1] + 1
        }),
      .integer("held_out_sequences", \.rest.activations.heldOutSequences),
      .integer("validation_tokens", \.rest.validationTokens),
      .integer("latents", \.rest.latents),
      .choice("objective", \.kind),
      .list("granularities", \.rest.granularities, write: { JSONValue($0) }, read: \.integer),
      ConfigurationField(
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
      .integer("tokens", \.rest.tokens),
      .integer("batch_tokens", \.rest.batchTokens),
      .number("learning_rate", \.rest.learningRate),
      .integer("warm_up_steps", \.rest.warmUpSteps),
      .integer("decay_steps", \.rest.decaySteps),
      .number("weight_decay", \.rest.weightDecay),
      .number("beta1", \.rest.beta1),
      .number("beta2", \.rest.beta2),
      .number("gradient_norm_max", \.rest.gradientNormMax),
      .number("auxiliary_coefficient", \.auxiliaryCoefficient),
      .integer("auxiliary_latents", \.auxiliaryLatents),
      .integer("dead_after_tokens", \.rest.deadAfterTokens),
      ConfigurationField(
        "seed", \.rest.seed, write: { .integer(Int64(bitPattern: $0)) },
        read: { $0.integer.map { UInt64(bitPattern: Int64($0)) } }),
      .integer("checkpoint_every_steps", \.rest.checkpointEverySteps),
      .integer("checkpoints_kept", \.rest.checkpointsKept),
      .integer("divergence_steps", \.rest.divergenceSteps),
      .string("core", \.core),
      .integer("core_latents", \.coreLatents),
      .flag("trains_core_encoders", \.trainsCoreEncoders),
      .string("language_model", \.rest.languageModel),
      ConfigurationField(
        "hook", \.rest.hook, write: { .string($0.name) },
        read: { $0.string.map { HookPoint($0) } }),
    ]
  }
}
