import Foundation

/// Progress of long work on standard error: one line redrawn in place on a terminal, else a plain
/// line now and then.
struct ProgressBar {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let isQuiet: Bool
  private var nextUpdate = Date.distantPast
  private var drawn = false

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
      write("\r\u{1B}[2K\(bar) \(percent)  \(text())")
      drawn = true
    } else {
      write("\(percent)  \(text())\n")
    }
  }

  /// Ends the line, so that what is printed next begins its own.
  mutating func finish() {
    if drawn { write("\r\u{1B}[2K") }
    drawn = false
  }

  private func write(_ text: String) { printError(text, terminator: "") }

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
