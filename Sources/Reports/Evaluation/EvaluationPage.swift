package import GranuleFiles
import GranuleTraining

/// The result of `granule evaluate` as one HTML page: tables, figures that can be saved one by one,
/// and all numbers as JSON.
package struct EvaluationPage {
  private let reports: [DictionaryReport]
  private let comparison: DictionaryComparison?
  private let json: JSONValue
  private let command: String

  /// - Parameters:
  ///   - json: all numbers, as `--json` prints them.
  ///   - command: the command line that made the page.
  package init(
    reports: [DictionaryReport], comparison: DictionaryComparison?, json: JSONValue,
    command: String
  ) {
    self.reports = reports
    self.comparison = comparison
    self.json = json
    self.command = command
  }

  /// The page as a file's text.
  package var html: String {
    let figures = EvaluationFigures(reports: reports)
    var page = HTMLPage(
      title: reports.count == 1 ? reports[0].name : "\(reports.count) dictionaries compared",
      facts: facts)
    if let comparison {
      page.add(heading: "Comparison")
      page.add(figures: figures.comparison(comparison))
      page.add(sections: EvaluationTables.of(comparison))
    }
    page.add(heading: "Figures")
    page.add(figures: figures.common + reports.compactMap(EvaluationFigures.decoder))
    for report in reports {
      page.add(heading: "Tables" + (reports.count > 1 ? ": \(report.name)" : ""))
      page.add(sections: EvaluationTables.of(report))
    }
    page.addFooter(command: command, json: StrictJSON.text(json), file: "evaluation.json")
    return page.html
  }

  private var facts: [String] {
    let dictionaries = reports.map { report in
      "\(report.name): \(report.latents.grouped) latents of d_model \(report.dModel.grouped), "
        + "selection by \(report.selectionRule)"
        + (report.orderedBy.map { ", ordered by \($0)" } ?? "")
        + (report.trainingNote.isEmpty ? "" : ", evaluated on activations\(report.trainingNote)")
    }
    let tokens = reports.first?.evaluation.map {
      "Evaluated on \($0.tokens.grouped) tokens of "
        + (reports[0].activationPaths.count > 3
          ? "\(reports[0].activationPaths.count) files from \(reports[0].activationPaths[0])"
          : reports[0].activationPaths.joined(separator: ", "))
    }
    return dictionaries + [tokens].compactMap { $0 }
  }
}
