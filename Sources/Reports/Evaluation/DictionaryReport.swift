import GranuleDictionary
package import GranuleFiles
import GranuleTraining

/// The results of `granule evaluate` for one dictionary.
package struct DictionaryReport {
  /// Values by rank, with the power law of their middle ranks.
  struct RankedValues {
    var name: String
    /// The name in JSON.
    var key: String
    /// The values above zero, descending.
    var values: [Double]
    var law: PowerLaw?

    init(name: String, key: String, _ values: [Double], middle: ClosedRange<Double>) {
      self.name = name
      self.key = key
      self.values = values.filter { $0 > 0 }.sorted(by: >)
      law = PowerLaw(values, middle: middle)
    }
  }

  package var name: String
  var latents: Int
  var dModel: Int
  var selectionRule: String
  var orderedBy: String?
  /// The granularities that were evaluated.
  var granularities: [Int]
  /// The files of activations; empty without an evaluation.
  package var activationPaths: [String] = []
  /// Whether the dictionary was trained on any of them; nil if that is not known.
  var isOfTraining: Bool?
  var evaluation: Evaluation?
  var recaptured: RecapturedLoss?
  /// The block before which reconstructions were spliced in.
  package var layer: Int?
  var correlations: [MetricCorrelations] = []
  var mass: ActivationMass?
  var decoder: DecoderSimilarity?
  var ranked: [RankedValues] = []

  init(_ dictionary: SparseAutoencoder, name: String, granularities: [Int]) {
    self.name = name
    latents = dictionary.latents
    dModel = dictionary.dModel
    selectionRule = dictionary.selectionRule.name
    orderedBy = dictionary.provenance.orderedBy
    self.granularities = granularities
  }

  /// A warning if the dictionary was trained on the activations; otherwise empty.
  package var trainingNote: String {
    isOfTraining == true ? ", which it was trained on, or on some of them" : ""
  }

  /// The least cosine at which two decoder rows count as one split feature.
  static let splitCosine: Float = 0.7
  static let quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]

  /// The object that `granule evaluate --json` prints.
  package var json: JSONValue {
    var members: [JSONValue.Member] = [
      .init("dictionary", .string(name)), .init("latents", JSONValue(latents)),
      .init("d_model", JSONValue(dModel)), .init("selection_rule", .string(selectionRule)),
      .init("ordered_by", orderedBy.map { .string($0) } ?? .null),
    ]
    if let evaluation {
      members.append(.init("on_training_activations", isOfTraining.map { .bool($0) } ?? .null))
      members += Self.members(evaluation)
    }
    if let recaptured { members.append(.init("recaptured", Self.json(recaptured))) }
    if !correlations.isEmpty {
      members.append(.init("metric_correlations", .array(correlations.map(Self.json))))
    }
    if let mass { members.append(.init("activation_mass", json(mass))) }
    if let decoder { members.append(.init("decoder_cosines", Self.json(decoder))) }
    if !ranked.isEmpty { members.append(.init("power_laws", .array(ranked.map(Self.json)))) }
    return .object(members)
  }

  private static func members(_ evaluation: Evaluation) -> [JSONValue.Member] {
    let rows = evaluation.rows.map { row in
      JSONValue.object([
        .init("granularity", JSONValue(row.granularity)),
        .init("sparsity", .string(row.sparsity.rawValue)), .init("k", JSONValue(row.k)),
        .init("l0", JSONValue(row.l0)), .init("fvu", JSONValue(row.fvu)),
        .init("fvu_stored_mean", known(row.fvuStoredMean)),
        .init("fvu_scalar_mean", JSONValue(row.fvuScalarMean)),
        .init("rsa", known(row.similarity)), .init("dead_latents", JSONValue(row.deadLatents)),
      ])
    }
    return [
      .init("tokens", JSONValue(evaluation.tokens)),
      .init("rsa_samples", JSONValue(evaluation.similaritySamples)), .init("rows", .array(rows)),
    ]
  }

  private static func json(_ recaptured: RecapturedLoss) -> JSONValue {
    let rows = recaptured.rows.map { row in
      JSONValue.object([
        .init("granularity", JSONValue(row.granularity)),
        .init("sparsity", .string(row.sparsity.rawValue)), .init("k", JSONValue(row.k)),
        .init("l0", JSONValue(row.l0)), .init("fvu", JSONValue(row.fvu)),
        .init("cross_entropy", JSONValue(row.crossEntropy)),
        .init("cross_entropy_ratio", JSONValue(row.ratio)),
        .init("loss_recovered_against_mean", JSONValue(row.recovered)),
      ])
    }
    return .object([
      .init("predicted_tokens", JSONValue(recaptured.predictedTokens)),
      .init("replaced_tokens", JSONValue(recaptured.replacedTokens)),
      .init("cross_entropy_clean", JSONValue(recaptured.clean)),
      .init("cross_entropy_mean", JSONValue(recaptured.meanBaseline)),
      .init("cross_entropy_zero", JSONValue(recaptured.zeroBaseline)), .init("rows", .array(rows)),
    ])
  }

  private static func json(_ correlations: MetricCorrelations) -> JSONValue {
    [
      "sparsity": .string(correlations.sparsity.rawValue),
      "granularities": JSONValue(correlations.granularities),
      "metrics": .array(correlations.metrics.map { .string($0) }),
      "pearson": .array(correlations.values.map { .array($0.map(known)) }),
    ]
  }

  private func json(_ mass: ActivationMass) -> JSONValue {
    [
      "share_of_first": .array(
        granularities.map {
          ["latents": JSONValue($0), "share": Self.known(mass.share(ofFirst: $0))]
        }),
      "bins": .array(
        mass.bins.map {
          [
            "first": JSONValue($0.latents.lowerBound),
            "last": JSONValue($0.latents.upperBound - 1),
            "mean_squared_activation": JSONValue($0.meanSquaredActivation),
            "frequency": JSONValue($0.frequency),
          ]
        }),
    ]
  }

  private static func json(_ decoder: DecoderSimilarity) -> JSONValue {
    .array(
      decoder.blocks.map { block in
        [
          "first": JSONValue(block.latents.lowerBound),
          "last": JSONValue(block.latents.upperBound - 1),
          "mean_maximum_cosines": .array(block.meanMaximumCosines.map(known)),
          "mean_maximum_earlier_cosine": known(block.meanMaximumEarlierCosine),
          "earlier_cosine_quantiles": .array(
            quantiles.map {
              [
                "quantile": JSONValue($0), "cosine": known(block.earlierCosine(quantile: $0)),
              ]
            }),
          "share_above_\(splitCosine)": known(block.shareAbove(cosine: splitCosine)),
        ]
      })
  }

  private static func json(_ ranked: RankedValues) -> JSONValue {
    [
      "of": .string(ranked.key), "values_above_zero": JSONValue(ranked.values.count),
      "exponent": known(ranked.law?.exponent), "coefficient": known(ranked.law?.coefficient),
      "r_squared": known(ranked.law?.rSquared),
      "first_rank": ranked.law.map { JSONValue($0.ranks.lowerBound) } ?? .null,
      "last_rank": ranked.law.map { JSONValue($0.ranks.upperBound) } ?? .null,
    ]
  }

  static func known(_ number: Double?) -> JSONValue { number.map { JSONValue($0) } ?? .null }
}
