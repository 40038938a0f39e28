import GranuleEngine
import Testing

@Suite struct RateLimitTests {
  private let start = ContinuousClock.now

  @Test("a burst passes, then one an interval, which says how many were held back")
  func burst() {
    var limit = RateLimit(burst: 3, interval: .seconds(1))
    #expect((0..<6).map { _ in limit.pass(now: start) } == [0, 0, 0, nil, nil, nil])
    #expect(limit.pass(now: start + .milliseconds(999)) == nil)
    #expect(limit.pass(now: start + .milliseconds(1000)) == 4)
    #expect(limit.pass(now: start + .milliseconds(1500)) == nil)
    #expect(limit.pass(now: start + .milliseconds(2000)) == 1)
  }

  @Test("a quiet time gives the whole burst back, and no more")
  func recovery() {
    var limit = RateLimit(burst: 2, interval: .seconds(1))
    for _ in 0..<5 { _ = limit.pass(now: start) }
    let later = start + .seconds(86_400)
    #expect((0..<3).map { _ in limit.pass(now: later) } == [3, 0, nil])
  }

  @Test("over a long time no more than the rate passes, however things come")
  func rate() {
    var generator = SystemRandomNumberGenerator()
    var limit = RateLimit(burst: 5, interval: .milliseconds(100))
    var (milliseconds, passed, held) = (0, 0, 0)
    for _ in 0..<10_000 {
      milliseconds += Int.random(in: 0...20, using: &generator)
      if let missing = limit.pass(now: start + .milliseconds(milliseconds)) {
        passed += 1
        #expect(missing == held)
        held = 0
      } else {
        held += 1
      }
    }
    #expect(passed <= 5 + milliseconds / 100)
    #expect(passed >= milliseconds / 100 - 1)
  }
}
