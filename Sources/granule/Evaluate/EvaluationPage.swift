import Foundation
import GranuleFiles
import GranuleTraining

/// What `granule evaluate` found, as one HTML page that needs nothing else: tables, figures as SVG
/// that can be saved one by one, and all numbers as JSON.
struct EvaluationPage {
  var reports: [DictionaryReport]
  var comparison: DictionaryComparison?
  /// What `--json` prints.
  var json: JSONValue
  /// The command line that made it.
  var command: String

  var html: String {
    let figures = EvaluationFigures(reports: reports)
    let title =
      reports.count == 1 ? reports[0].name : "\(reports.count) dictionaries compared"
    var body = [
      "<header><h1>\(SVG.escaped(title))</h1>",
      "<p class=\"facts\">\(facts)</p></header>",
    ]
    if let comparison {
      body.append("<h2>Comparison</h2>")
      body.append(Self.grid(figures.comparison(comparison)))
      body += EvaluationTables.of(comparison).map(Self.section)
    }
    body.append("<h2>Figures</h2>")
    body.append(Self.grid(figures.common + reports.compactMap(EvaluationFigures.decoder)))
    for report in reports {
      body.append("<h2>Tables\(reports.count > 1 ? ": \(SVG.escaped(report.name))" : "")</h2>")
      body += EvaluationTables.of(report).map(Self.section)
    }
    let numbers = Data(StrictJSON.text(json).utf8).base64EncodedString()
    body.append(
      """
      <footer><p>Made by <code>\(SVG.escaped(command))</code>. \
      <a download="evaluation.json" href="data:application/json;base64,\(numbers)">All numbers as \
      JSON</a>.</p></footer>
      """)
    return """
      <!DOCTYPE html>
      <html lang="en"><head><meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <title>\(SVG.escaped(title)) – Granule</title>
      <style>\(Self.style)</style></head><body><main>
      \(body.joined(separator: "\n"))
      </main></body></html>

      """
  }

  private var facts: String {
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
    return (dictionaries + [tokens].compactMap { $0 }).map(SVG.escaped).joined(separator: "<br>")
  }

  private static func grid(_ figures: [EvaluationFigures.Figure]) -> String {
    "<div class=\"grid\">" + figures.map(html).joined(separator: "\n") + "</div>"
  }

  private static func html(_ figure: EvaluationFigures.Figure) -> String {
    let file = Data(figure.svg.utf8).base64EncodedString()
    return """
      <figure>\(figure.svg)<figcaption>\(SVG.escaped(figure.caption)) \
      <a download="\(figure.key).svg" href="data:image/svg+xml;base64,\(file)">SVG</a>\
      </figcaption></figure>
      """
  }

  private static func section(_ entry: EvaluationTables.Entry) -> String {
    """
    <section><h3>\(SVG.escaped(entry.title))</h3><div class="scroll">\(entry.table.html)</div>
    <p class="note">\(SVG.escaped(entry.note))</p></section>
    """
  }

  private static let style = """
    :root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--quiet:#5c6570;--rule:#d9dee3}
    @media(prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e4e7ea;--quiet:#98a2ad;\
    --rule:#343a41}}
    @media print{:root{--paper:#fff;--ink:#000;--quiet:#444;--rule:#bbb}}
    body{margin:0;background:var(--paper);color:var(--ink);\
    font:15px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}
    main{max-width:1480px;margin:0 auto;padding:28px 32px}
    h1{font-size:26px;margin:0 0 4px}
    h2{font-size:19px;margin:36px 0 14px;padding-top:14px;border-top:1px solid var(--rule)}
    h3{font-size:15px;margin:22px 0 8px}
    .facts,.note,figcaption,footer{color:var(--quiet);font-size:13px}
    .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr));gap:28px}
    figure{margin:0;break-inside:avoid}
    figure svg{width:100%;height:auto;display:block}
    figcaption{margin-top:4px}
    .scroll{overflow-x:auto}
    table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}
    th,td{text-align:right;padding:3px 12px;white-space:nowrap}
    th{font-weight:600;border-bottom:1px solid var(--ink)}
    tbody tr:last-child td{border-bottom:1px solid var(--rule)}
    a{color:inherit}
    footer{margin-top:40px;border-top:1px solid var(--rule)}
    code{overflow-wrap:anywhere}
    """
}
