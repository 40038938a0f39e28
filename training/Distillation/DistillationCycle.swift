internal import GranuleData
internal import GranuleErrors
package import GranuleFiles
internal import GranuleRun
internal import GranuleTensors

/// What one cycle of a distillation came to: `OUT/cycle-N/cycle.json`, written once all else of the
/// cycle is on the disk.
public struct DistillationCycle: Sendable, Equatable {
  static let fileName = "cycle.json"
  /// More than all latents of as many cycles as there may be.
  private static let idMax = 1 << 40
  /// Shares of all attribution at which the coverage curve is recorded.
  public static let coverages = [0.5, 0.8, 0.9, 0.95, 0.99, 1]

  /// A latent that was selected, and which one it is over all cycles.
  public struct Feature: Sendable, Equatable {
    /// The same in every cycle whose core it is in.
    public var id: Int
    /// Its index in the cycle's dictionary.
    public var latent: Int
    /// Its score, in nats.
    public var attribution: Double
    /// The share of tokens for which it was active.
    public var frequency: Double

    /// A latent that was selected.
    public init(id: Int, latent: Int, attribution: Double, frequency: Double) {
      self.id = id
      self.latent = latent
      self.attribution = attribution
      self.frequency = frequency
    }
  }

  /// A granularity of the cycle's dictionary, measured on held-out activations.
  public struct Row: Sendable, Equatable {
    /// Number of latents.
    public var latents: Int
    /// Mean number of active latents a token.
    public var l0: Double
    /// Fraction of variance unexplained.
    public var fvu: Double
  }

  /// From 1.
  public var number: Int
  /// Latents of the core that the cycle began with; its dictionary's first.
  public var coreLatents: Int
  /// Latents that could be selected: the innermost granularity.
  public var candidates: Int
  /// What was selected, in descending order of attribution.
  public var selected: [Feature]
  /// How many of them the core had that the cycle began with.
  public var kept: Int
  /// The number of latents that reach each of `coverages`.
  public var latentsForCoverage: [Int]
  /// The dictionary's granularities, the core first if there is one.
  public var rows: [Row]
  /// Tokens that were attributed.
  public var attributedTokens: Int
  /// Mean next-token cross-entropy with the innermost reconstruction spliced in, nats.
  public var crossEntropy: Double
  /// Seconds of training, of all processes that took part in it; nil if an older Granule did.
  public var trainingSeconds: Double?
  /// Seconds of the attribution that was not interrupted; nil as `trainingSeconds`.
  public var attributionSeconds: Double?
  /// The share of steps in which the core alone had more active latents than three quarters of k, so that the rest was given a
  /// quarter of k; nil as `trainingSeconds`.
  public var flooredShare: Double?
  /// As which version the dictionary was published; nil if it was not.
  public var publishedVersion: Int?

  /// As the file has it, and what scripts are given.
  package var json: JSONValue {
    func optional(_ value: Double?) -> JSONValue { value.map { JSONValue($0) } ?? .null }
    return [
      "cycle": JSONValue(number), "core_latents": JSONValue(coreLatents),
      "candidates": JSONValue(candidates), "kept": JSONValue(kept),
      "selected": .array(
        selected.map {
          [
            "feature": JSONValue($0.id), "latent": JSONValue($0.latent),
            "attribution": JSONValue($0.attribution), "frequency": JSONValue($0.frequency),
          ]
        }),
      "latents_for_coverage": .array(
        zip(Self.coverages, latentsForCoverage).map { [JSONValue($0), JSONValue($1)] }),
      "granularities": .array(
        rows.map {
          [
            "latents": JSONValue($0.latents), "l0": JSONValue($0.l0), "fvu": JSONValue($0.fvu),
          ]
        }),
      "attributed_tokens": JSONValue(attributedTokens), "cross_entropy": JSONValue(crossEntropy),
      "training_seconds": optional(trainingSeconds),
      "attribution_seconds": optional(attributionSeconds), "floored_share": optional(flooredShare),
      "published_version": publishedVersion.map { JSONValue($0) } ?? .null,
    ]
  }

  func write(to folder: String) throws(FileError) {
    try DurableFile.replace(
      "\(folder)/\(Self.fileName)", with: StrictJSON.text(json, indented: true) + "\n")
  }

  /// Reads a cycle's file.
  ///
  /// - Throws: `TrainingError` or `FileError` if it is damaged.
  init(folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    let root = try JSONReader(kept: path)
    number = try root.required("cycle").integer()
    coreLatents = try root.required("core_latents").integer()
    candidates = try root.required("candidates").integer()
    kept = try root.required("kept").integer()
    let selected = try root.required("selected")
    self.selected = try selected.elements().map {
      Feature(
        id: try $0.required("feature").integer(in: 0...Self.idMax),
        latent: try $0.required("latent").integer(in: 0 ... .max),
        attribution: try $0.required("attribution").number(),
        frequency: try $0.required("frequency").number())
    }
    latentsForCoverage = try root.required("latents_for_coverage").elements().map {
      guard let latents = try $0.elements().last else { throw $0.fault("is empty") }
      return try latents.integer()
    }
    rows = try root.required("granularities").elements().map {
      Row(
        latents: try $0.required("latents").integer(), l0: try $0.required("l0").number(),
        fvu: try $0.required("fvu").number())
    }
    attributedTokens = try root.required("attributed_tokens").integer()
    crossEntropy = try root.required("cross_entropy").number()
    trainingSeconds = root["training_seconds"]?.value.number
    attributionSeconds = root["attribution_seconds"]?.value.number
    flooredShare = root["floored_share"]?.value.number
    publishedVersion = root["published_version"]?.value.integer
    guard (0...max(candidates, 0)).contains(coreLatents), !self.selected.isEmpty,
      self.selected.allSatisfy({ $0.latent < candidates }),
      Set(self.selected.map(\.id)).count == self.selected.count
    else {
      throw selected.fault("must name different features, all of them candidates, at least one")
    }
  }

  init(
    number: Int, coreLatents: Int, candidates: Int, selected: [Feature], kept: Int,
    coverageCurve: [Double], rows: [Row], attribution: LatentAttribution
  ) {
    self.number = number
    self.coreLatents = coreLatents
    self.candidates = candidates
    self.selected = selected
    self.kept = kept
    latentsForCoverage = Self.coverages.map { coverage in
      (coverageCurve.firstIndex { $0 >= coverage } ?? coverageCurve.count - 1) + 1
    }
    self.rows = rows
    attributedTokens = attribution.tokens
    crossEntropy = attribution.crossEntropy
    attributionSeconds = attribution.seconds
  }
}
