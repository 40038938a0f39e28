import Foundation
import GranuleTraining

/// The figures of `granule evaluate --html`.
struct EvaluationFigures {
  let reports: [DictionaryReport]

  private var granularities: [Double] {
    Set(reports.flatMap(\.granularities)).sorted().map { Double($0) }
  }

  /// Figures in which all dictionaries appear.
  var common: [HTMLPage.Figure] {
    [
      byGranularity(
        "fvu", "Fraction of variance unexplained", "FVU", isLogarithmic: true,
        caption: "Lower is better. As trained, each granularity has the k that its prefix holds in "
          + "full-width codes; at the fixed ratio, k · G / N."
      ) { report, sparsity in
        report.evaluation?.rows(sparsity).map { ($0.granularity, $0.fvu) }
      },
      byGranularity(
        "l0", "Active latents", "L0", isLogarithmic: true,
        caption: "Mean number of active latents a token."
      ) { report, sparsity in
        report.evaluation?.rows(sparsity).map { ($0.granularity, $0.l0) }
      },
      byGranularity(
        "rsa", "Representational similarity", "RSA", isLogarithmic: false,
        caption: "Pearson correlation of the distances between activations and of those between "
          + "their reconstructions."
      ) { report, sparsity in
        report.evaluation?.rows(sparsity).compactMap { row in
          row.similarity.map { (row.granularity, $0) }
        }
      },
      byGranularity(
        "loss-recovered", "Language-model loss recovered", "loss recovered", isLogarithmic: false,
        caption:
          "0 is the loss with every replaced activation set to their mean, 1 that of the clean "
          + "model."
      ) { report, sparsity in
        report.recaptured?.rows(sparsity).map { ($0.granularity, $0.recovered) }
      },
      byGranularity(
        "ce-ratio", "Recaptured language-model loss", "CE(clean) / CE(spliced)",
        isLogarithmic: false, caption: "Higher is better, 1 is the clean model."
      ) { report, sparsity in
        report.recaptured?.rows(sparsity).map { ($0.granularity, $0.ratio) }
      },
      fvuAgainstLoss, mass(\.meanSquaredActivation, "mass", "Activation mass", "E[z²] · ‖W_dec‖²"),
      mass(\.frequency, "frequency-by-index", "Frequency of activation", "E[1{z > 0}]"),
    ].compactMap { $0 } + powerLaws + cosineQuantiles
  }

  /// The figure of the similarities between one dictionary's decoder rows.
  static func decoder(of report: DictionaryReport) -> HTMLPage.Figure? {
    guard let decoder = report.decoder, decoder.blocks.count > 1 else { return nil }
    let names = decoder.blocks.map {
      "\($0.latents.lowerBound.grouped)–\(($0.latents.upperBound - 1).grouped)"
    }
    let values = decoder.blocks.map(\.meanMaximumCosines)
    let known = values.flatMap { $0 }.compactMap { $0 }
    return HTMLPage.Figure(
      key: "decoder-cosines",
      svg: HeatMap(
        title: "Largest decoder cosine by granularity block", columnLabel: "with latents of",
        rowLabel: "mean over latents of", names: names, values: values,
        range: min(0, known.min() ?? 0)...max(known.max() ?? 1, 0.01)
      ).svg,
      caption:
        "\(report.name): for the latents that each granularity adds, the mean of the largest "
        + "cosine of their decoder rows with the other rows of a block.")
  }

  /// Figures that compare several dictionaries.
  func comparison(_ comparison: DictionaryComparison) -> [HTMLPage.Figure] {
    let points = comparison.frontier.points
    // The colours of the other figures.
    var series = reports.enumerated().map { number, report in
      Plot.Series(
        name: report.name, points: points.filter { $0.name == report.name }.map { ($0.l0, $0.fvu) },
        style: .markers, number: number)
    }
    series.append(
      Plot.Series(
        name: "frontier", points: points.filter(\.isOnFrontier).map { ($0.l0, $0.fvu) },
        style: .line, number: 7, isDashed: true))
    let frontier = HTMLPage.Figure(
      key: "frontier",
      svg: Plot(
        title: "Sparsity–fidelity frontier", x: .init(label: "L0", isLogarithmic: true),
        y: .init(label: "FVU", isLogarithmic: true), series: series
      ).svg, caption: "Each dictionary at its largest granularity.")
    return [frontier]
      + comparison.laws.flatMap { laws in
        [laws.law, laws.withFloor].compactMap { $0 }.map { scalingLaw($0, laws.sparsity) }
      }
  }

  private func scalingLaw(_ law: ScalingLaw, _ sparsity: Evaluation.Sparsity) -> HTMLPage.Figure {
    let sizes = Set(law.points.map(\.latents)).sorted()
    let series = sizes.enumerated().map { number, size in
      Plot.Series(
        name: "N = \(Int(size).grouped)",
        points: law.points.filter { $0.latents == size }.map { (law($0), $0.loss) },
        style: .markers, number: number)
    }
    let floor = law.floor.isEmpty ? "" : " with floor"
    return HTMLPage.Figure(
      key: "scaling-law-\(sparsity.rawValue)" + (law.floor.isEmpty ? "" : "-floor"),
      svg: Plot(
        title: "Scaling law\(floor), \(sparsity.rawValue)",
        x: .init(label: "FVU by the law", isLogarithmic: true),
        y: .init(label: "FVU measured", isLogarithmic: true), series: series, hasDiagonal: true
      ).svg,
      caption: "R² of log FVU \(law.rSquared?.formatted(digits: 4) ?? "undefined"), over "
        + "\(law.points.count) points of \(reports.count) dictionaries.")
  }

  private func byGranularity(
    _ key: String, _ title: String, _ label: String, isLogarithmic: Bool, caption: String,
    _ values: (DictionaryReport, Evaluation.Sparsity) -> [(Int, Double)]?
  ) -> HTMLPage.Figure? {
    let series = reports.enumerated().flatMap { number, report in
      Evaluation.Sparsity.allCases.compactMap { sparsity -> Plot.Series? in
        guard let points = values(report, sparsity), !points.isEmpty else { return nil }
        // One line is enough if no granularity has two sparsities.
        if sparsity == .fixedRatio, report.hasOneSparsity { return nil }
        let name = reports.count == 1 ? sparsity.rawValue : "\(report.name), \(sparsity.rawValue)"
        return Plot.Series(
          name: reports.count > 1 && report.hasOneSparsity ? report.name : name,
          points: points.map { (Double($0.0), $0.1) }, number: number,
          isDashed: sparsity == .fixedRatio)
      }
    }
    guard !series.isEmpty else { return nil }
    return HTMLPage.Figure(
      key: key,
      svg: Plot(
        title: title,
        x: .init(label: "granularity: latents used", isLogarithmic: true, ticks: granularities),
        y: .init(label: label, isLogarithmic: isLogarithmic), series: series
      ).svg, caption: caption)
  }

  private var fvuAgainstLoss: HTMLPage.Figure? {
    let series = reports.enumerated().flatMap { number, report in
      Evaluation.Sparsity.allCases.compactMap { sparsity -> Plot.Series? in
        guard let rows = report.recaptured?.rows(sparsity) else { return nil }
        if sparsity == .fixedRatio, report.hasOneSparsity { return nil }
        return Plot.Series(
          name: reports.count == 1 ? sparsity.rawValue : "\(report.name), \(sparsity.rawValue)",
          points: rows.map { ($0.fvu, $0.recovered) }, number: number,
          isDashed: sparsity == .fixedRatio)
      }
    }
    guard !series.isEmpty else { return nil }
    return HTMLPage.Figure(
      key: "fvu-and-loss",
      svg: Plot(
        title: "FVU and loss recovered", x: .init(label: "FVU", isLogarithmic: true),
        y: .init(label: "loss recovered"), series: series
      ).svg,
      caption: "A point for each granularity, FVU of the tokens that were replaced in the text.")
  }

  private func mass(
    _ value: KeyPath<ActivationMass.Bin, Double>, _ key: String, _ title: String, _ label: String
  ) -> HTMLPage.Figure? {
    let series = reports.enumerated().compactMap { number, report in
      report.mass.map { mass in
        Plot.Series(
          name: report.name,
          points: mass.bins.map {
            (
              Double($0.latents.lowerBound + $0.latents.upperBound + 1) / 2,
              $0[keyPath: value]
            )
          }, style: .line, number: number)
      }
    }
    guard !series.isEmpty else { return nil }
    return HTMLPage.Figure(
      key: key,
      svg: Plot(
        title: "\(title) by latent index",
        x: .init(label: "latent, counted from 1", isLogarithmic: true),
        y: .init(label: label, isLogarithmic: true), series: series, guides: granularities
      ).svg,
      caption:
        "Means over bins that widen with the index, for full-width codes. Dotted lines are the "
        + "granularities. Bins in which no latent is ever active are left out.")
  }

  private var powerLaws: [HTMLPage.Figure] {
    guard let first = reports.first(where: { !$0.ranked.isEmpty }) else { return [] }
    return first.ranked.map { kind in
      var series: [Plot.Series] = []
      var captions: [String] = []
      for (number, report) in reports.enumerated() {
        guard let ranked = report.ranked.first(where: { $0.key == kind.key }) else { continue }
        series.append(
          Plot.Series(
            name: report.name, points: Self.thinned(ranked.values), style: .line, number: number))
        guard let law = ranked.law else { continue }
        series.append(
          Plot.Series(
            name: reports.count == 1
              ? "power law, exponent \(law.exponent.formatted(digits: 2))" : "",
            points: [law.ranks.lowerBound, law.ranks.upperBound].map {
              (Double($0), law(rank: $0))
            }, style: .line, number: reports.count == 1 ? 1 : number, isDashed: true))
        captions.append(
          "\(report.name): exponent \(law.exponent.formatted(digits: 3)), R² "
            + "\(law.rSquared?.formatted(digits: 3) ?? "undefined"), ranks "
            + "\(law.ranks.lowerBound.grouped) … \(law.ranks.upperBound.grouped).")
      }
      return HTMLPage.Figure(
        key: "power-law-\(kind.key)",
        svg: Plot(
          title: kind.name.prefix(1).uppercased() + kind.name.dropFirst(),
          x: .init(label: "rank", isLogarithmic: true),
          y: .init(label: kind.label, isLogarithmic: true), series: series
        ).svg,
        caption: reports.count > 2
          ? "Dashed lines are the fits; the tables have their exponents."
          : captions.joined(separator: " ") + " The dashed line is the fit.")
    }
  }

  private var cosineQuantiles: [HTMLPage.Figure] {
    reports.compactMap { report in
      guard let blocks = report.decoder?.blocks.dropFirst(), !blocks.isEmpty else { return nil }
      let series = blocks.enumerated().map { number, block in
        Plot.Series(
          name: "\(block.latents.lowerBound.grouped)–\((block.latents.upperBound - 1).grouped)",
          points: (0...100).compactMap { percent in
            block.earlierCosine(quantile: Double(percent) / 100).map {
              ($0, Double(percent) / 100)
            }
          }, style: .line, number: number)
      }
      return HTMLPage.Figure(
        key: "earlier-cosines",
        svg: Plot(
          title: "Feature splitting",
          x: .init(label: "largest decoder cosine with earlier latents"),
          y: .init(label: "share of latents up to"), series: series
        ).svg,
        caption: "\(report.name): for the latents that each granularity adds, the cosine with the "
          + "nearest latent of earlier granularities.")
    }
  }

  /// The values at ranks that are evenly spaced on a logarithmic axis, with the first and the last.
  private static func thinned(_ values: [Double]) -> [(x: Double, y: Double)] {
    var points: [(x: Double, y: Double)] = []
    var rank = 1
    while rank <= values.count {
      points.append((Double(rank), values[rank - 1]))
      rank = rank == values.count ? rank + 1 : min(max(rank + 1, rank * 103 / 100), values.count)
    }
    return points
  }
}

extension DictionaryReport {
  /// Whether each granularity has only one row, because the rule has no k.
  fileprivate var hasOneSparsity: Bool {
    let rows = evaluation?.rows.count ?? recaptured?.rows.count ?? 0
    return rows <= granularities.count
  }
}

extension DictionaryReport.RankedValues {
  /// The label of the axis.
  fileprivate var label: String {
    switch key {
    case "decoder_covariance_eigenvalues": "eigenvalue"
    case "mean_squared_activation": "E[z²] · ‖W_dec‖²"
    default: "E[1{z > 0}]"
    }
  }
}
