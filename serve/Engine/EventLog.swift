package import Logging
import Synchronization

/// The log of an engine and its server: one line for each event, with its subject as metadata, and
/// only a few lines of the same kind if they come fast.
package final class EventLog: Sendable {
  /// What happened, as the metadata's `event` names it.
  package enum Event: String, Sendable {
    /// Another version serves, or the same version with another size.
    case swap
    /// A version could not be loaded.
    case loadFailure = "load_failure"
    /// The repository could not be read.
    case repository
    /// Requests are refused or answered with less, or no longer.
    case overload
    /// A connection ended otherwise than by its client's wish.
    case connectionClosed = "connection_closed"
    /// The server stops.
    case stop
  }

  private struct State {
    var limits: [Event: RateLimit] = [:]
    var suppressed: UInt64 = 0
  }
  private let logger: Logger
  private let burst: Int
  private let interval: Duration
  private let state = Mutex(State())

  /// - Parameters:
  ///   - burst: lines of one kind that are written at once.
  ///   - interval: the time between further lines of that kind.
  init(_ logger: Logger, burst: Int, interval: Duration) {
    self.logger = logger
    self.burst = burst
    self.interval = interval
  }

  /// Lines that were not written because too many of their kind came.
  var suppressed: UInt64 { state.withLock { $0.suppressed } }

  /// Writes a line, unless too many of its kind were written just now; the next one then says how
  /// many are missing.
  package func write(
    _ event: Event, at level: Logger.Level = .info, _ message: @autoclosure () -> String,
    _ metadata: @autoclosure () -> Logger.Metadata = [:]
  ) {
    guard level >= logger.logLevel else { return }
    let missing: Int? = state.withLock { state in
      let missing = state.limits[event, default: RateLimit(burst: burst, interval: interval)]
        .pass(now: .now)
      if missing == nil { state.suppressed += 1 }
      return missing
    }
    guard let missing else { return }
    var metadata = metadata()
    metadata["event"] = "\(event.rawValue)"
    if missing > 0 { metadata["suppressed"] = "\(missing)" }
    logger.log(level: level, "\(message())", metadata: metadata)
  }
}
