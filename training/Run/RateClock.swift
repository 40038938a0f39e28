internal import Glibc

/// Tokens a second over the last few seconds.
struct RateClock {
  private static let windowSeconds = 5.0
  private var marks: [(seconds: Double, tokens: Int)]

  /// 0 before the first step.
  private(set) var tokensPerSecond = 0.0

  init(tokens: Int) { marks = [(Self.now(), tokens)] }

  mutating func advance(to tokens: Int) {
    let now = Self.now()
    marks.append((now, tokens))
    while marks.count > 2, now - marks[1].seconds > Self.windowSeconds { marks.removeFirst() }
    tokensPerSecond = Double(tokens - marks[0].tokens) / max(now - marks[0].seconds, 1e-9)
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
