import Foundation

/// A page of tables and figures that loads no other file.
package struct HTMLPage {
  private let title: String
  private var body: [String]

  /// A page that begins with its title and a few lines of facts below it.
  package init(title: String, facts: [String]) {
    self.title = title
    let facts = facts.map(SVG.escaped).joined(separator: "<br>")
    body = [
      "<header><h1>\(SVG.escaped(title))</h1>", "<p class=\"facts\">\(facts)</p></header>",
    ]
  }

  /// A picture with its caption.
  package struct Figure {
    /// Name of the file that the picture is saved as, without `.svg`.
    package var key: String
    package var svg: String
    package var caption: String

    package init(key: String, svg: String, caption: String) {
      self.key = key
      self.svg = svg
      self.caption = caption
    }
  }

  /// A table with a title above it and a note below it.
  package struct Section {
    package var title: String
    package var table: TextTable
    package var note: String

    package init(title: String, table: TextTable, note: String) {
      self.title = title
      self.table = table
      self.note = note
    }
  }

  /// Adds a heading.
  package mutating func add(heading: String) { body.append("<h2>\(SVG.escaped(heading))</h2>") }

  /// Adds figures beside each other, as many in a row as the window has room for.
  package mutating func add(figures: [Figure]) {
    body.append(
      "<div class=\"grid\">" + figures.map(Self.html).joined(separator: "\n") + "</div>")
  }

  /// Adds tables below each other.
  package mutating func add(sections: [Section]) {
    for section in sections {
      body.append(
        """
        <section><h3>\(SVG.escaped(section.title))</h3><div class="scroll">\(section.table.html)</div>
        <p class="note">\(SVG.escaped(section.note))</p></section>
        """)
    }
  }

  /// Adds the command that made the page, and a link that saves `json` as `file`.
  package mutating func addFooter(command: String, json: String, file: String) {
    let numbers = Data(json.utf8).base64EncodedString()
    body.append(
      """
      <footer><p>Made by <code>\(SVG.escaped(command))</code>. \
      <a download="\(file)" href="data:application/json;base64,\(numbers)">All numbers as \
      JSON</a>.</p></footer>
      """)
  }

  /// The page as a file's text.
  package var html: String {
    """
    <!DOCTYPE html>
    <html lang="en"><head><meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>\(SVG.escaped(title)) – Granule</title>
    <style>\(Self.style)</style></head><body><main>
    \(body.joined(separator: "\n"))
    </main></body></html>

    """
  }

  private static func html(_ figure: Figure) -> String {
    let file = Data(figure.svg.utf8).base64EncodedString()
    return """
      <figure>\(figure.svg)<figcaption>\(SVG.escaped(figure.caption)) \
      <a download="\(figure.key).svg" href="data:image/svg+xml;base64,\(file)">SVG</a>\
      </figcaption></figure>
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
