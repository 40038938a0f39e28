/// Decides from the waits of calls how far to cut those that allow it; a state machine that is told the
/// time.
///
/// How it works:
/// 1. waits are averaged over intervals of at least `interval`;
/// 2. an interval whose mean wait is above `high` raises the level by one;
/// 3. one whose mean is below `low` lowers it by one;
/// 4. between the two nothing changes, so that the relief a level brings does not undo it at once;
/// 5. each `interval` without calls lowers it by one, and earlier waits are forgotten.
package struct PressureGauge {
  /// The highest level; a dictionary with more granularities than that is rare.
  package static var levelMax: Int { 16 }

  private let high: Duration
  private let low: Duration
  private let interval: Duration
  private var start: ContinuousClock.Instant?
  /// When a wait was last recorded.
  private var last: ContinuousClock.Instant?
  private var sum = Duration.zero
  private var count = 0
  /// Granularities by which to cut calls that allow it; 0 means no pressure.
  package private(set) var level = 0

  /// A gauge at level 0.
  package init(high: Duration, low: Duration, interval: Duration) {
    self.high = high
    self.low = low
    self.interval = interval
  }

  /// Takes in how long a call waited that is being started.
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

  /// The level at `now` if nothing has waited since the last record.
  package func level(idleAt now: ContinuousClock.Instant) -> Int {
    guard let last, interval > .zero else { return level }
    let intervals = min(max(last.duration(to: now) / interval, 0), Double(Self.levelMax))
    return max(level - Int(intervals), 0)
  }
}
