internal import GranuleData
package import GranuleErrors
package import GranuleFiles
internal import GranuleObjective
internal import GranuleTensors

// The configuration as JSON: a run's `config.json`, which has every key that is set, and whatever a user
// writes by hand, where those that have defaults may be missing.
extension TrainingConfiguration {
  package static let fileName = "config.json"
  private static let format = 1

  /// Every key that is set, as JSON.
  package var json: JSONValue {
    let keys = ConfigurationKeys(self)
    return .object(
      [.init("format", JSONValue(Self.format))]
        + ConfigurationField.all.compactMap { field in
          field.write(keys).map { JSONValue.Member(field.key, $0) }
        })
  }

  /// A configuration from JSON; keys that are missing have their defaults.
  ///
  /// - Parameter source: where it comes from, for messages.
  /// - Throws: `TrainingError` naming the key that is missing, unknown, or of the wrong kind.
  package init(json: JSONValue, source: String) throws(TrainingError) {
    guard let members = json.members else {
      throw TrainingError.damaged(source, "is \(json.kind), an object is needed")
    }
    let fields = ConfigurationField.all
    for member in members where member.key != "format" {
      guard fields.contains(where: { $0.key == member.key }) else {
        throw TrainingError(
          .invalid(field: member.key, value: "", limit: "a known key"),
          "\(source): \(member.key) is unknown; there are "
            + fields.map(\.key).joined(separator: ", "))
      }
    }
    if let format = json["format"], format.integer != Self.format {
      throw TrainingError.damaged(source, "its format is not 1, the one that this Granule reads")
    }
    func required<T>(_ key: String, _ value: (JSONValue) -> T?) throws(TrainingError) -> T {
      guard let member = json[key] else { throw TrainingError.damaged(source, "\(key) is missing") }
      guard let result = value(member) else { throw Self.wrongKind(source, key, member) }
      return result
    }
    let kind =
      try json["objective"] == nil
      ? .topk : required("objective") { $0.string.flatMap(TrainingObjective.Kind.init) }
    let latents = try required("latents", \.integer)
    var keys = ConfigurationKeys(
      Self.defaults(
        kind, k: kind.hasK ? try required("k", \.integer) : 0, latents: latents,
        tokens: try required("tokens", \.integer),
        batchTokens: try json["batch_tokens"] == nil ? 2048 : required("batch_tokens", \.integer)))
    if json["activations"] == nil {
      throw TrainingError.damaged(source, "activations is missing")
    }
    for field in fields {
      guard let value = json[field.key] else { continue }
      guard field.read(&keys, value) else { throw Self.wrongKind(source, field.key, value) }
    }
    self = try keys.configuration()
    try validate()
  }

  /// The defaults of an objective for a dictionary of a size.
  private static func defaults(
    _ kind: TrainingObjective.Kind, k: Int, latents: Int, tokens: Int, batchTokens: Int
  ) -> TrainingConfiguration {
    let objective: TrainingObjective =
      switch kind {
      case .topk: .topk(k: k)
      case .batchtopk: .batchtopk(k: k)
      case .jumprelu: .jumprelu(.init())
      case .relu: .relu(.init())
      }
    return TrainingConfiguration(
      latents: latents, objective: objective, tokens: tokens, batchTokens: batchTokens)
  }

  /// Those of a file's members that another configuration can begin with: without the defaults that
  /// follow from other members, which may differ there.
  package static func withoutDerivedDefaults(
    _ members: [JSONValue.Member]
  ) -> [JSONValue.Member] {
    func integer(_ key: String) -> Int? { members.first { $0.key == key }?.value.integer }
    let objective = members.first { $0.key == "objective" }?.value.string
    guard let latents = integer("latents"), let tokens = integer("tokens") else { return members }
    let defaults = Self.defaults(
      objective.flatMap(TrainingObjective.Kind.init) ?? .topk, k: integer("k") ?? 0,
      latents: latents, tokens: tokens, batchTokens: integer("batch_tokens") ?? 2048
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
    TrainingError(
      .invalid(field: key, value: StrictJSON.text(value), limit: "of another kind"),
      "\(source): \(key) is \(StrictJSON.text(value)), which it cannot be")
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
