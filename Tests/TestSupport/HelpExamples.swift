/// The examples in the help of a command.
public enum HelpExamples {
  /// The examples as words, the program's name first.
  ///
  /// - Parameter help: a help text, in which a line `EXAMPLE` precedes the examples, each of them
  ///   indented by two spaces and continued after a backslash.
  public static func read(from help: String) -> [[String]] {
    var examples: [[String]] = []
    var isExample = false
    var isContinued = false
    for line in help.split(separator: "\n", omittingEmptySubsequences: false) {
      if line == "EXAMPLE" {
        isExample = true
        continue
      }
      guard isExample, line.hasPrefix("  ") else {
        isExample = false
        continue
      }
      let words = line.split(separator: " ").map(String.init)
      if isContinued { examples[examples.count - 1] += words } else { examples.append(words) }
      isContinued = examples[examples.count - 1].last == "\\"
      if isContinued { examples[examples.count - 1].removeLast() }
    }
    return examples
  }
}
