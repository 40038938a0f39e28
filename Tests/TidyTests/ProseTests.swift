import Testing

/// What a machine can check of the rules in CONTRIBUTING.md, "How we write".
@Suite struct ProseTests {
  /// A rule, a pattern that breaks it, and what to write instead.
  struct Rule: Sendable, CustomTestStringConvertible {
    let name: String
    let pattern: String
    let remedy: String
    /// Text that breaks it, and text that does not: a rule that finds nothing proves nothing.
    let breaks: String
    let keeps: String
    var testDescription: String { "\(name): \(pattern)" }
  }

  /// Rules that hold in prose of every kind.
  static let rules = [
    Rule(
      name: "R1", pattern: #"(?i)(^|[.;:,(] ?)by how\b"#, remedy: "name the quantity",
      breaks: "By how much it is larger.", keeps: "The factor by which it is larger."),
    Rule(
      name: "R1", pattern: #"(?i)\bthe very (bits|same)\b"#, remedy: "exactly the bits",
      breaks: "ends with the very bits", keeps: "ends with exactly the bits"),
    Rule(
      name: "R3",
      pattern:
        #"(?:^|(?:^|[^\w])(?!there )(?!There )[\w`)”’]+ |[^\w] )(?:is|are|was|were) no (?!(longer|more|less|fewer|larger|smaller|greater|later|earlier|better|worse|slower|faster|further|different|need|use|way|room|reason)\b)[a-z]"#,
      remedy: "is not a …", breaks: "is no folder", keeps: "is no longer a folder"),
    Rule(
      name: "R4",
      pattern: #"(?i)\b(so many|so much memory|some hundred|a run of few|as many as are)\b"#,
      remedy: "a number or a named limit", breaks: "after so many steps", keeps: "after 100 steps"),
    Rule(
      name: "R5",
      pattern:
        #"\b(nil|NULL|zero|empty|0|1|false|true|nothing|Error`|error|[Uu]navailable|UNAVAILABLE) where\b"#,
      remedy: "if or when", breaks: "nil where there is none", keeps: "nil if there is none"),
    Rule(
      name: "R5",
      pattern:
        #"\bwhere (not\b|there (is|are|was|were)\b|it (is|was|does|has)\b|they (are|have|do)\b|none\b|nobody\b|nothing\b)"#,
      remedy: "if or when", breaks: "where there is no file", keeps: "if there is no file"),
    Rule(
      name: "R5", pattern: #"\b(is another|would be others|else those)\b"#,
      remedy: "differs; otherwise",
      breaks: "the file is another", keeps: "the file differs"),
    Rule(
      name: "R7", pattern: #"\bgo(es)? before (it|them|what|those)\b"#, remedy: "override",
      breaks: "options go before it", keeps: "options override it"),
  ]

  /// A sentence that a help line or a doc comment must not begin with.
  static let opening = Rule(
    name: "R2", pattern: #"^(?:Of|Those|That|By|Another(?: than|\.))(?: |$)"#,
    remedy: "begin with a noun phrase or a verb that names the thing",
    breaks: "Of the random numbers.", keeps: "Seed of the random number generator.")

  @Test("each rule finds what breaks it, and only that", arguments: rules + [opening])
  func patterns(_ rule: Rule) throws {
    let pattern = try Regex(rule.pattern)
    #expect(rule.breaks.contains(pattern))
    #expect(!rule.keeps.contains(pattern))
  }

  @Test("pages keep the rules", arguments: rules)
  func pages(_ rule: Rule) throws {
    let pattern = try Regex(rule.pattern)
    #expect(Repository.pages.count > 8)
    // CONTRIBUTING.md quotes what breaks them.
    for page in Repository.pages where page.path != "CONTRIBUTING.md" {
      for (number, line) in page.lines.enumerated() where line.contains(pattern) {
        Issue.record("\(page.path):\(number + 1): \(rule.name), \(rule.remedy): \(line)")
      }
    }
  }

  @Test("comments, help and messages keep the rules", arguments: rules)
  func sources(_ rule: Rule) throws {
    let pattern = try Regex(rule.pattern)
    #expect(Repository.product.count > 200)
    for file in Repository.product {
      for (number, line) in file.lines.enumerated() {
        guard let prose = Self.prose(of: line), prose.contains(pattern) else { continue }
        Issue.record("\(file.path):\(number + 1): \(rule.name), \(rule.remedy): \(prose)")
      }
    }
  }

  @Test("doc comments and help lines stand alone")
  func openings() throws {
    let pattern = try Regex(Self.opening.pattern)
    for file in Repository.product {
      var before: Substring = ""
      for (number, line) in file.lines.enumerated() {
        defer { before = line }
        guard let opening = Self.opening(of: line, after: before), opening.contains(pattern) else {
          continue
        }
        Issue.record(
          "\(file.path):\(number + 1): \(Self.opening.name), \(Self.opening.remedy): \(opening)")
      }
    }
  }

  /// The comment and the string literals of a line; nil if it has neither.
  private static func prose(of line: Substring) -> Substring? {
    if let comment = line.firstRange(of: "//"), !line[..<comment.lowerBound].contains("\"") {
      return line[comment.lowerBound...]
    }
    guard let start = line.firstIndex(of: "\""), let end = line.lastIndex(of: "\""), start < end
    else {
      return nil
    }
    return line[line.index(after: start)..<end]
  }

  /// What a doc comment or a `help:` begins with; nil if `line` begins neither.
  private static func opening(of line: Substring, after before: Substring) -> Substring? {
    let text = line.drop { $0 == " " }
    if text.hasPrefix("/// "), !before.drop(while: { $0 == " " }).hasPrefix("///") {
      return text.dropFirst(4)
    }
    guard let help = line.firstRange(of: "help: \"") else { return nil }
    return line[help.upperBound...]
  }
}
