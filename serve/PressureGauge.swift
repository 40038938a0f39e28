/// Tells from how long requests wait how much the server should save; a state machine that is told
/// the time.
///
/// How it works:
/// 1. waits are averaged over intervals of at least `interval`;
/// 2. an interval whose mean wait is above `high` raises the level by one;
/// 3. one whose mean is below `low` lowers it by one for each `interval` that it took, so that an
///    idle time ends an overload;
/// 4. between the two nothing changes: what a level has won does not undo it at once.
package struct PressureGauge {
  /// The highest level; a dictionary with more granularities than that is rare.
  package static var levelMax: Int { 16 }

  private let high: Duration
  private let low: Duration
  private let interval: Duration
  private var start: ContinuousClock.Instant?
  private var sum = Duration.zero
  private var count = 0
  /// 0: no pressure; each level means one granularity less for those who allow it.
  package private(set) var level = 0

  /// A gauge at level 0.
  package init(high: Duration, low: Duration, interval: Duration) {
    self.high = high
    self.low = low
    self.interval = interval
  }

  /// A request that waited so long is being started.
  package mutating func record(wait: Duration, now: ContinuousClock.Instant) {
    sum += wait
    count += 1
    let begin = start ?? now
    start = begin
    let elapsed = begin.duration(to: now)
    guard elapsed >= interval else { return }
    let meanWait = sum / count
    if meanWait > high {
      level = min(level + 1, Self.levelMax)
    } else if meanWait < low {
      let intervals = interval > .zero ? min(elapsed / interval, Double(Self.levelMax)) : 1
      level = max(level - Int(intervals), 0)
    }
    start = now
    sum = .zero
    count = 0
  }
}
