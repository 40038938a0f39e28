package import GranuleFiles
import GranuleTraining

/// Several evaluated dictionaries beside each other.
package struct DictionaryComparison {
  /// The scaling law of one sparsity, without a floor and, if the points suffice, with one.
  package struct Law {
    var sparsity: Evaluation.Sparsity
    var law: ScalingLaw
    var withFloor: ScalingLaw?
  }

  /// The frontier at full size.
  var frontier: SparsityFrontier
  var laws: [Law]

  /// Compares the reports that have an evaluation; nil if there are fewer than two.
  package init?(_ reports: [DictionaryReport]) {
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

  /// The members of the JSON object that `granule evaluate --json` prints.
  package var members: [JSONValue.Member] {
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
