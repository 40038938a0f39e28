/// Tells when an overload begins and when it is over, from counters that only rise; a state machine
/// that is told the time.
package struct OverloadEpisode {
  /// What is worth telling.
  package enum Event: Equatable {
    /// Requests are given less than they asked for, or refused.
    case began
    /// They were neither for a while: how long it had lasted, and to how many it happened.
    case ended(after: Duration, shed: UInt64, refused: UInt64)
  }

  private struct Counts: Equatable {
    var shed: UInt64 = 0
    var refused: UInt64 = 0
  }

  private let quiet: Duration
  private var last = Counts()
  /// The episode that lasts: when it began, the counts just before, and when they last rose.
  private var episode:
    (start: ContinuousClock.Instant, before: Counts, end: ContinuousClock.Instant)?

  /// - Parameter quiet: an episode is over once so long nothing has happened.
  package init(quiet: Duration) { self.quiet = quiet }

  /// Looks at the counters now and then.
  package mutating func observe(shed: UInt64, refused: UInt64, now: ContinuousClock.Instant)
    -> Event?
  {
    let counts = Counts(shed: shed, refused: refused)
    defer { last = counts }
    guard var current = episode else {
      if counts == last { return nil }
      episode = (now, last, now)
      return .began
    }
    if counts != last {
      current.end = now
      episode = current
      return nil
    }
    guard current.end.duration(to: now) >= quiet else { return nil }
    episode = nil
    return .ended(
      after: current.start.duration(to: current.end), shed: shed - current.before.shed,
      refused: refused - current.before.refused)
  }
}
