internal import Glibc

/// Thrown if something that was waited for has not happened in time.
public struct NeverHappened: Error, CustomStringConvertible {
  /// What was waited for, and for how long.
  public let description: String
}

/// How long to sleep before asking again: first 1 ms, then twice as long each time up to 50 ms, so
/// that waiting leaves the cores to what is waited for.
private struct Pause {
  private var next = Duration.milliseconds(1)
  private let end: ContinuousClock.Instant
  private let what: String
  private let limit: Duration

  init(_ what: String, within limit: Duration) {
    (self.what, self.limit) = (what, limit)
    end = .now + limit
  }

  /// The time to sleep now.
  ///
  /// - Throws: `NeverHappened` once the time is up.
  mutating func take() throws(NeverHappened) -> Duration {
    guard ContinuousClock.now < end else {
      throw NeverHappened(description: "after \(limit), still not: \(what)")
    }
    defer { next = min(next * 2, .milliseconds(50)) }
    return next
  }
}

/// Asks whether something holds until it does, and sleeps in between.
///
/// - Parameters:
///   - what: what is waited for, for the error's message.
///   - limit: how long to wait. Other tests may keep the cores busy, so that a task waits for its turn
///     for tens of seconds; the limit only ends a wait that would never end.
/// - Throws: `NeverHappened` if it does not hold in time, and what `holds` throws.
public func eventually(
  _ what: String, within limit: Duration = .seconds(120),
  isolation: isolated (any Actor)? = #isolation, _ holds: () async throws -> Bool
) async throws {
  var pause = Pause(what, within: limit)
  // Polling is for conditions that nothing signals; the pause leaves the cores to what is waited for.
  while try await !holds() { try await Task.sleep(for: pause.take()) }
}

/// Waits as `eventually` does, but blocks the thread; for tests that block their thread anyway.
///
/// - Throws: `NeverHappened` if it does not hold in time, and what `holds` throws.
public func blockUntil(
  _ what: String, within limit: Duration = .seconds(120), _ holds: () throws -> Bool
) throws {
  var pause = Pause(what, within: limit)
  while try !holds() { sleep(for: try pause.take()) }
}

/// Blocks the thread for a time, or again for as long after a signal.
public func sleep(for time: Duration) {
  let (seconds, attoseconds) = time.components
  var rest = timespec(tv_sec: Int(seconds), tv_nsec: Int(attoseconds / 1_000_000_000))
  while clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, nil) == EINTR {}
}
