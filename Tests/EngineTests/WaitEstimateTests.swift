import GranuleEngine
import Testing

@Suite struct WaitEstimateTests {
  @Test("the wait is that of the batches before, shared among the workers")
  func batches() {
    var estimate = WaitEstimate(batchTokensMax: 256, workers: 2)
    #expect(estimate.wait(behind: 1_000_000) == .zero)
    estimate.record(.milliseconds(10))
    #expect(estimate.wait(behind: 0) == .zero)
    #expect(estimate.wait(behind: 1) == .milliseconds(5))
    #expect(estimate.wait(behind: 256) == .milliseconds(5))
    #expect(estimate.wait(behind: 2560) == .milliseconds(50))
  }

  @Test("the latest batches count most")
  func latest() {
    var estimate = WaitEstimate(batchTokensMax: 1, workers: 1)
    for _ in 0..<100 { estimate.record(.milliseconds(1)) }
    for _ in 0..<30 { estimate.record(.milliseconds(100)) }
    #expect(estimate.wait(behind: 1) > .milliseconds(99))
    #expect(estimate.wait(behind: 1) < .milliseconds(101))
  }
}
