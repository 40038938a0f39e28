import Foundation

/// Progress of long work on standard error: on a terminal redrawn in place every 0.1 s, on as many
/// lines as its width requires; otherwise a plain line every 10 s.
package final class ProgressBar {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let isQuiet: Bool
  private var nextUpdate = Date.distantPast
  private var linesDrawn = 0

  /// - Parameter isQuiet: whether nothing is shown, for scripts.
  package init(isQuiet: Bool = false) { self.isQuiet = isQuiet }

  /// Shows the share done and a text beside it; most calls only read the clock.
  package func update(fraction: Double, _ text: @autoclosure () -> String) {
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

  /// Clears the bar, so that the next text begins its own line.
  package func finish() {
    write(erasure)
    linesDrawn = 0
  }

  /// The text that moves the terminal back to the first line drawn, and clears the bar.
  private var erasure: String {
    guard linesDrawn > 0 else { return "" }
    return "\r" + (linesDrawn > 1 ? "\u{1B}[\(linesDrawn - 1)A" : "") + "\u{1B}[J"
  }

  /// Columns of the terminal; 80 if it does not say.
  private static var columns: Int {
    var size = winsize()
    guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
    return Int(size.ws_col)
  }

  /// The parts of a text, which two spaces separate, on lines that leave the last column free. A part
  /// longer than a line is cut, since a line that wraps could not be cleared.
  package static func folded(_ text: String, columns: Int) -> [String] {
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
}

/// Prints to standard error, which takes everything but a command's result.
package func printError(_ text: String, terminator: String = "\n") {
  // Both may go into one file: earlier standard output must come first.
  fflush(nil)
  FileHandle.standardError.write(Data((text + terminator).utf8))
}
