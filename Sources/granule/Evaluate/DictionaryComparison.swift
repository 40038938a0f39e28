import GranuleFiles
import GranuleTraining

/// What several evaluated dictionaries tell together.
struct DictionaryComparison {
  /// One law for each sparsity, with and without a floor, where points allow.
  struct Law {
    var sparsity: Evaluation.Sparsity
    var law: ScalingLaw
    var withFloor: ScalingLaw?
  }

  /// At full size.
  var frontier: SparsityFrontier
  var laws: [Law]

  /// Compares reports that have an evaluation; nil with fewer than two.
  init?(_ reports: [DictionaryReport]) {
    let evaluated = reports.compactMap { report in
      report.evaluation.map { (report: report, evaluation: $0) }
    }
    guard evaluated.count > 1 else { return nil }
    frontier = SparsityFrontier(
      evaluated.compactMap { report, evaluation in
        evaluation.rows(.asTrained).last.map {
          .init(name: report.name, granularity: $0.granularity, l0: $0.l0, fvu: $0.fvu)
        }
      })
    laws = Evaluation.Sparsity.allCases.compactMap { sparsity in
      let points = evaluated.flatMap { report, evaluation in
        (evaluation.sparsities.contains(sparsity) ? evaluation.rows(sparsity) : []).map {
          ScalingLaw.Point(
            latents: report.latents, granularity: $0.granularity, active: $0.l0, loss: $0.fvu)
        }
      }
      return ScalingLaw(points).map {
        Law(sparsity: sparsity, law: $0, withFloor: $0.withFloor())
      }
    }
  }

  var members: [JSONValue.Member] {
    [
      .init(
        "frontier",
        .array(
          frontier.points.map {
            [
              "dictionary": .string($0.name), "granularity": JSONValue($0.granularity),
              "l0": JSONValue($0.l0), "fvu": JSONValue($0.fvu),
              "on_frontier": .bool($0.isOnFrontier),
            ]
          })),
      .init(
        "scaling_laws",
        .array(
          laws.flatMap { law in
            [law.law, law.withFloor].compactMap { $0 }.map { Self.json($0, law.sparsity) }
          })),
    ]
  }

  private static func json(_ law: ScalingLaw, _ sparsity: Evaluation.Sparsity) -> JSONValue {
    [
      "sparsity": .string(sparsity.rawValue), "points": JSONValue(law.points.count),
      "has_floor": .bool(!law.floor.isEmpty),
      "r_squared": DictionaryReport.known(law.rSquared),
      "terms": .array(
        (law.terms + law.floor).map {
          [
            "term": .string($0.name), "coefficient": DictionaryReport.known($0.coefficient),
            "standard_error": DictionaryReport.known($0.standardError),
          ]
        }),
    ]
  }
}
