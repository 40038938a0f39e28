import Logging
import Synchronization

/// The lines that a server logs, with what they say as metadata.
final class LogLines: Sendable {
  private let lines = Mutex<[[String: String]]>([])

  /// A logger that keeps its lines here.
  var logger: Logger { Logger(label: "test") { _ in Handler(lines: self) } }

  /// How many lines are about an event and have these metadata.
  func count(_ event: String, _ metadata: [String: String]) -> Int {
    lines.withLock { lines in
      lines.count { line in
        line["event"] == event && metadata.allSatisfy { line[$0.key] == $0.value }
      }
    }
  }

  private struct Handler: LogHandler {
    let lines: LogLines
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.debug
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
      let metadata = (event.metadata ?? [:]).mapValues { "\($0)" }
      lines.lines.withLock { $0.append(metadata) }
    }
  }
}
