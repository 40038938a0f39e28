/// Tells from how long requests wait how much the server should save; a state machine that is told
/// the time.
///
/// How it works:
/// 1. waits are averaged over intervals of at least `interval`;
/// 2. an interval whose mean wait is above `high` raises the level by one;
/// 3. one whose mean is below `low` lowers it by one;
/// 4. between the two nothing changes: what a level has won does not undo it at once;
/// 5. each `interval` without requests lowers it by one, and what was averaged before is forgotten.
package struct PressureGauge {
  /// The highest level; a dictionary with more granularities than that is rare.
  package static var levelMax: Int { 16 }

  private let high: Duration
  private let low: Duration
  private let interval: Duration
  private var start: ContinuousClock.Instant?
  /// The last record.
  private var last: ContinuousClock.Instant?
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
    let arrival = now - wait
    if let last, last.duration(to: arrival) >= interval {
      level = level(idleAt: arrival)
      start = arrival
      sum = .zero
      count = 0
    }
    last = now
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
      level = max(level - 1, 0)
    }
    start = now
    sum = .zero
    count = 0
  }

  /// The level at `now`, nothing having waited since the last record.
  package func level(idleAt now: ContinuousClock.Instant) -> Int {
    guard let last, interval > .zero else { return level }
    let intervals = min(max(last.duration(to: now) / interval, 0), Double(Self.levelMax))
    return max(level - Int(intervals), 0)
  }
}
