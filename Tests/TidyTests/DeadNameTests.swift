import Testing

/// Names that other modules may use, and nobody does.
@Suite struct DeadNameTests {
  /// What an embedder may want although nothing here uses it, each with the reason.
  static let exceptions: [String: String] = [:]

  @Test("every public or package name is used somewhere")
  func names() throws {
    let declaration =
      /^ *(?:@\w+(?:\([^)]*\))? )*(?:public|package) (?:(?:static|final|mutating|nonisolated\(unsafe\)|consuming|borrowing|indirect|internal\(set\)|private\(set\)|package\(set\)|convenience|override) )*(?:func|var|let|struct|enum|class|protocol|typealias) (\w+)/
    var uses: [Substring: Int] = [:]
    var declared: [Substring: String] = [:]
    for file in Repository.product + Repository.tests {
      for line in file.lines {
        let text = line.drop { $0 == " " }
        if text.hasPrefix("//") { continue }
        for match in line.matches(of: /[A-Za-z_]\w*/) { uses[match.output, default: 0] += 1 }
        if let match = line.firstMatch(of: declaration) { declared[match.1] = file.path }
      }
    }
    #expect(declared.count > 500)
    for (name, path) in declared.sorted(by: { $0.value < $1.value })
    where uses[name] == 1 && Self.exceptions[String(name)] == nil {
      Issue.record("\(path): \(name) is used nowhere: remove it, or make it private")
    }
  }
}
