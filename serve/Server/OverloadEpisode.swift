/// Tells when an overload begins and when it is over, from counters that only rise; a state machine
/// that is told the time.
package struct OverloadEpisode {
  /// An event to log.
  package enum Event: Equatable {
    /// Requests are answered with less than they asked for, or refused.
    case began
    /// Neither has happened for a while; carries how long the episode lasted and how many requests it
    /// affected.
    case ended(after: Duration, shed: UInt64, refused: UInt64)
  }

  private struct Counts: Equatable {
    var shed: UInt64 = 0
    var refused: UInt64 = 0
  }

  private let quiet: Duration
  private var last = Counts()
  /// The current episode: when it began, the counts just before, and when they last rose.
  private var episode:
    (start: ContinuousClock.Instant, before: Counts, end: ContinuousClock.Instant)?

  /// - Parameter quiet: time without events after which an episode is over.
  package init(quiet: Duration) { self.quiet = quiet }

  /// Takes in the counters; to be called now and then.
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
