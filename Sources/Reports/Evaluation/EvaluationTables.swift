import GranuleTraining

/// The tables of `granule evaluate`, for a terminal and for a page.
package enum EvaluationTables {
  package static func of(_ report: DictionaryReport) -> [HTMLPage.Section] {
    [
      report.evaluation.map { reconstruction($0, report) }, report.recaptured.map(recaptured),
      report.mass.map { blocks(report, $0) }, powerLaws(report),
    ].compactMap { $0 } + report.correlations.map(correlations)
  }

  package static func of(_ comparison: DictionaryComparison) -> [HTMLPage.Section] {
    [frontier(comparison.frontier)] + comparison.laws.map(scalingLaw)
  }

  private static func reconstruction(
    _ evaluation: Evaluation, _ report: DictionaryReport
  ) -> HTMLPage.Section {
    var table = TextTable(
      "granularity", "sparsity", "k", "L0", "FVU", "stored mean", "scalar mean", "RSA", "dead")
    for row in evaluation.rows {
      table.add(
        row.granularity.grouped, row.sparsity.rawValue, row.k > 0 ? "\(row.k)" : "–",
        row.l0.formatted(digits: 1), row.fvu.formatted(digits: 4),
        row.fvuStoredMean?.formatted(digits: 4) ?? "–",
        row.fvuScalarMean.formatted(digits: 4), row.similarity?.formatted(digits: 4) ?? "–",
        row.deadLatents.grouped)
    }
    let samples = evaluation.similaritySamples
    return HTMLPage.Section(
      title: "Reconstruction of \(evaluation.tokens.grouped) tokens", table: table,
      note: (samples > 0 ? "RSA on \(samples.grouped) tokens. " : "")
        + "Dead: latents of the prefix that were active for no token.")
  }

  private static func recaptured(_ recaptured: RecapturedLoss) -> HTMLPage.Section {
    var table = TextTable(
      "granularity", "sparsity", "k", "L0", "FVU", "CE", "CE ratio", "loss recovered")
    func baseline(_ name: String, _ crossEntropy: Double) {
      table.add(
        "–", name, "–", "–", "–", crossEntropy.formatted(digits: 4),
        (recaptured.clean / crossEntropy).formatted(digits: 4), "–")
    }
    baseline("clean", recaptured.clean)
    for row in recaptured.rows {
      table.add(
        row.granularity.grouped, row.sparsity.rawValue, row.k > 0 ? "\(row.k)" : "–",
        row.l0.formatted(digits: 1), row.fvu.formatted(digits: 4),
        row.crossEntropy.formatted(digits: 4), row.ratio.formatted(digits: 4),
        row.recovered.formatted(digits: 4))
    }
    baseline("mean", recaptured.meanBaseline)
    baseline("zero", recaptured.zeroBaseline)
    return HTMLPage.Section(
      title: "Recaptured loss: \(recaptured.replacedTokens.grouped) tokens replaced, "
        + "\(recaptured.predictedTokens.grouped) predicted",
      table: table,
      note:
        "CE ratio: clean CE / this CE. Loss recovered: between mean (0) and clean (1). Position 0 "
        + "and end-of-text tokens pass through untouched everywhere.")
  }

  private static func blocks(_ report: DictionaryReport, _ mass: ActivationMass) -> HTMLPage.Section
  {
    var table = TextTable(
      "latents", "mass up to here", "max cosine earlier: mean", "median", "90 %",
      "above \(DictionaryReport.splitCosine)")
    var ends = report.granularities
    if ends.last != report.latents { ends.append(report.latents) }
    for (number, end) in ends.enumerated() {
      let block = report.decoder?.blocks[number]
      func shown(_ value: Double?, digits: Int) -> String {
        value?.formatted(digits: digits) ?? "–"
      }
      table.add(
        "\((number == 0 ? 0 : ends[number - 1]).grouped) … \((end - 1).grouped)",
        mass.share(ofFirst: end).map { ($0 * 100).formatted(digits: 1) + " %" } ?? "–",
        shown(block?.meanMaximumEarlierCosine, digits: 3),
        shown(block?.earlierCosine(quantile: 0.5), digits: 3),
        shown(block?.earlierCosine(quantile: 0.9), digits: 3),
        block?.shareAbove(cosine: DictionaryReport.splitCosine)
          .map { ($0 * 100).formatted(digits: 1) + " %" } ?? "–")
    }
    return HTMLPage.Section(
      title: "Latents by granularity", table: table,
      note:
        "Mass: E[z²] · ‖W_dec‖² of full-width codes. Max cosine earlier: the largest cosine of each "
        + "latent's decoder row with those of earlier granularities; it is high if features split.")
  }

  private static func powerLaws(_ report: DictionaryReport) -> HTMLPage.Section? {
    guard !report.ranked.isEmpty else { return nil }
    var table = TextTable("power law of", "above zero", "ranks fitted", "exponent", "R²")
    for ranked in report.ranked {
      table.add(
        ranked.name, ranked.values.count.grouped,
        ranked.law.map {
          "\($0.ranks.lowerBound.grouped) … \($0.ranks.upperBound.grouped)"
        } ?? "–", ranked.law?.exponent.formatted(digits: 3) ?? "–",
        ranked.law?.rSquared?.formatted(digits: 3) ?? "–")
    }
    return HTMLPage.Section(
      title: "Power laws", table: table,
      note: "Value ≈ c · rank^exponent, a line fitted in log–log space to the middle ranks.")
  }

  /// The title of a metric, by its name in JSON.
  static func title(ofMetric key: String) -> String {
    switch key {
    case "fvu": "FVU"
    case "fvu_scalar_mean": "scalar mean"
    case "l0": "L0"
    case "rsa": "RSA"
    case "cross_entropy_ratio": "CE ratio"
    case "loss_recovered_against_mean": "loss recovered"
    default: key
    }
  }

  private static func correlations(_ correlations: MetricCorrelations) -> HTMLPage.Section {
    let names = correlations.metrics.map(title)
    var table = TextTable(columns: [""] + names)
    for (name, values) in zip(names, correlations.values) {
      table.add(cells: [name] + values.map { $0?.formatted(digits: 3) ?? "–" })
    }
    return HTMLPage.Section(
      title: "Correlation of metrics, \(correlations.sparsity.rawValue)", table: table,
      note: "Pearson's, over \(correlations.granularities) granularities.")
  }

  private static func frontier(_ frontier: SparsityFrontier) -> HTMLPage.Section {
    var table = TextTable("dictionary", "granularity", "L0", "FVU", "on the frontier")
    for point in frontier.points {
      table.add(
        point.name, point.granularity.grouped, point.l0.formatted(digits: 1),
        point.fvu.formatted(digits: 4), point.isOnFrontier ? "yes" : "no")
    }
    return HTMLPage.Section(
      title: "Sparsity–fidelity frontier at the largest granularity", table: table,
      note: "On the frontier: no other dictionary has as few active latents and explains as much.")
  }

  private static func scalingLaw(_ laws: DictionaryComparison.Law) -> HTMLPage.Section {
    var table = TextTable(
      "term", "coefficient", "standard error", "with floor", "its standard error")
    func shown(_ value: Double?) -> String { value?.formatted(digits: 4) ?? "–" }
    for (number, term) in laws.law.terms.enumerated() {
      let other = laws.withFloor?.terms[number]
      table.add(
        term.name, shown(term.coefficient), shown(term.standardError), shown(other?.coefficient),
        shown(other?.standardError))
    }
    for term in laws.withFloor?.floor ?? [] {
      table.add(term.name, "–", "–", shown(term.coefficient), shown(term.standardError))
    }
    table.add("R²", shown(laws.law.rSquared), "", shown(laws.withFloor?.rSquared), "")
    return HTMLPage.Section(
      title: "Scaling law, \(laws.sparsity.rawValue)", table: table,
      note:
        "The law is log FVU as a sum of these terms, fitted to \(laws.law.points.count) points; K is "
        + "the measured L0. The floor is exp of its terms, added to the FVU of the others. –: the "
        + "points are too few, or do not tell the term from those before it.")
  }
}
