import Foundation

/// Progress of long work on standard error: redrawn in place on a terminal, on as many lines as its width
/// makes it, else a plain line now and then.
struct ProgressBar {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let isQuiet: Bool
  private var nextUpdate = Date.distantPast
  private var linesDrawn = 0

  /// - Parameter isQuiet: show nothing, for scripts.
  init(isQuiet: Bool = false) { self.isQuiet = isQuiet }

  /// Shows the share done and a text beside it; most calls cost only a look at the clock.
  mutating func update(fraction: Double, _ text: @autoclosure () -> String) {
    let now = Date()
    guard !isQuiet, now >= nextUpdate else { return }
    nextUpdate = now.addingTimeInterval(isTerminal ? 0.1 : 10)
    let percent = String(format: "%3.0f %%", fraction * 100)
    if isTerminal {
      let width = 24
      let full = min(width, max(0, Int(fraction * Double(width))))
      let bar = String(repeating: "█", count: full) + String(repeating: "░", count: width - full)
      let lines = Self.folded("\(bar) \(percent)  \(text())", columns: Self.columns)
      write(erasure + lines.joined(separator: "\n"))
      linesDrawn = lines.count
    } else {
      write("\(percent)  \(text())\n")
    }
  }

  /// Ends the line, so that what is printed next begins its own.
  mutating func finish() {
    write(erasure)
    linesDrawn = 0
  }

  /// What takes the terminal back to where the lines drawn begin, and clears them.
  private var erasure: String {
    guard linesDrawn > 0 else { return "" }
    return "\r" + (linesDrawn > 1 ? "\u{1B}[\(linesDrawn - 1)A" : "") + "\u{1B}[J"
  }

  /// Columns of the terminal, 80 where it does not say.
  private static var columns: Int {
    var size = winsize()
    guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
    return Int(size.ws_col)
  }

  /// Parts that two spaces separate, on lines that leave the last column free; a part longer than a line
  /// is cut, since a line that wraps could not be cleared.
  static func folded(_ text: String, columns: Int) -> [String] {
    var lines: [String] = []
    var line = ""
    for part in text.split(separator: "  ").map({ $0.prefix(max(columns - 1, 1)) }) {
      if !line.isEmpty, line.count + 2 + part.count >= columns {
        lines.append(line)
        line = ""
      }
      line += (line.isEmpty ? "" : "  ") + part
    }
    return lines + [line]
  }

  private func write(_ text: String) {
    if !text.isEmpty { printError(text, terminator: "") }
  }

  /// `1:02:03`, `2:03` or `4 s`.
  static func duration(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds < 1e7 else { return "?" }
    let total = Int(seconds.rounded())
    if total < 60 { return "\(total) s" }
    let (hours, minutes, rest) = (total / 3600, total / 60 % 60, total % 60)
    return hours > 0
      ? String(format: "%d:%02d:%02d", hours, minutes, rest)
      : String(format: "%d:%02d", minutes, rest)
  }
}

/// Prints to standard error, where everything goes that is not a command's result.
func printError(_ text: String, terminator: String = "\n") {
  // What went to standard output before must come before, also where both go into one file.
  fflush(nil)
  FileHandle.standardError.write(Data((text + terminator).utf8))
}
