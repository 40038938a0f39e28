import GranuleEngine
import Testing

@Suite struct PressureGaugeTests {
  private let start = ContinuousClock.now

  private func gauge() -> PressureGauge {
    PressureGauge(high: .milliseconds(100), low: .milliseconds(20), interval: .milliseconds(10))
  }

  /// Records the same wait every 5 ms, from `first` on.
  private func record(
    _ gauge: inout PressureGauge, wait: Int, from first: Int, times: Int
  ) -> [Int] {
    (0..<times).map {
      gauge.record(
        wait: .milliseconds(wait), now: start + .milliseconds(first + 5 * $0))
      return gauge.level
    }
  }

  @Test("long waits raise the level, one step an interval; short ones lower it")
  func steps() {
    var gauge = gauge()
    #expect(record(&gauge, wait: 200, from: 0, times: 7) == [0, 0, 1, 1, 2, 2, 3])
    #expect(record(&gauge, wait: 5, from: 35, times: 7) == [3, 2, 2, 1, 1, 0, 0])
    #expect(record(&gauge, wait: 200, from: 70, times: 1000).last == PressureGauge.levelMax)
  }

  @Test("waits between the two bounds change nothing, in either direction")
  func hysteresis() {
    var gauge = gauge()
    #expect(record(&gauge, wait: 50, from: 0, times: 20) == Array(repeating: 0, count: 20))
    _ = record(&gauge, wait: 300, from: 100, times: 5)
    let level = gauge.level
    #expect(level > 0)
    _ = record(&gauge, wait: 50, from: 125, times: 2)
    let settled = gauge.level
    #expect(record(&gauge, wait: 50, from: 135, times: 20) == Array(repeating: settled, count: 20))
  }

  @Test("one long wait among many short ones is no pressure, and an idle time ends it by itself")
  func noise() {
    var gauge = gauge()
    for number in 0..<100 {
      gauge.record(
        wait: .milliseconds(number % 10 == 0 ? 300 : 1), now: start + .milliseconds(number))
    }
    #expect(gauge.level == 0)
    #expect((record(&gauge, wait: 300, from: 100, times: 30).last ?? 0) > 5)
    let level = gauge.level
    #expect(gauge.level(idleAt: start + .milliseconds(245 + 20)) == level - 2)
    #expect(gauge.level(idleAt: start + .seconds(60)) == 0)
    // What was averaged before the idle time raises nothing after it.
    gauge.record(wait: .milliseconds(300), now: start + .milliseconds(250))
    gauge.record(wait: .zero, now: start + .seconds(60))
    #expect(gauge.level == 0)
    gauge.record(wait: .zero, now: start + .seconds(60) + .milliseconds(10))
    #expect(gauge.level == 0)
  }

  @Test("requests that waited through a time without records were no idle time")
  func longBatches() {
    var gauge = gauge()
    for number in 0..<5 {
      gauge.record(wait: .seconds(1), now: start + .seconds(number))
      gauge.record(wait: .seconds(1), now: start + .seconds(number))
    }
    #expect(gauge.level == 4)
  }
}
