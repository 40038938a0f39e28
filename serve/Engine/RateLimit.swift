/// Lets through `burst` things at once and one an interval after that; a state machine that is told
/// the time.
package struct RateLimit {
  private let burst: Int
  private let interval: Duration
  /// Things that may pass now.
  private var allowance: Int
  /// When the allowance was last counted up.
  private var counted: ContinuousClock.Instant?
  private var held = 0

  /// A limit with its full allowance.
  package init(burst: Int, interval: Duration) {
    self.burst = burst
    self.interval = interval
    allowance = burst
  }

  /// How many things were held back since the last that passed, if one may pass at `now`; nil if this
  /// one is held back too.
  package mutating func pass(now: ContinuousClock.Instant) -> Int? {
    let since = counted ?? now
    let elapsed = Int(min(since.duration(to: now) / interval, Double(burst)))
    allowance = min(allowance + elapsed, burst)
    // A full allowance does not save up any further.
    counted = allowance == burst ? now : since + interval * elapsed
    guard allowance > 0 else {
      held += 1
      return nil
    }
    allowance -= 1
    defer { held = 0 }
    return held
  }
}
