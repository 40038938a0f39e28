import GranuleRun
import Testing

@Suite("Divergence")
struct DivergenceTests {
  /// What a watch says of each loss in turn.
  func sound(_ losses: [Double], stepsMax: Int) -> [Bool] {
    var watch = DivergenceWatch(stepsMax: stepsMax)
    return losses.map { watch.isSound($0) }
  }

  @Test("is a loss that is not finite, at once")
  func notFinite() {
    #expect(sound([1, .nan], stepsMax: 3) == [true, false])
    #expect(sound([.infinity], stepsMax: 3) == [false])
  }

  @Test("is a loss of ten times the running median for many steps in a row, not for a few")
  func exploding() {
    let before = (0..<300).map { 1 + Double($0 % 7) / 10 }
    let said = sound(before + [50, 50, 1, 50, 50, 50], stepsMax: 3)
    #expect(said == [Bool](repeating: true, count: 305) + [false])
    var watch = DivergenceWatch(stepsMax: 3)
    for loss in before + [50] { _ = watch.isSound(loss) }
    #expect(watch.isSuspect && watch.reason(50).contains("median"))
    _ = watch.isSound(1)
    #expect(!watch.isSuspect)
  }

  @Test("is told by a watch that goes on for another as by one that never stopped")
  func goesOn() {
    var losses = (0..<250).map { 1 + Double($0 * 37 % 101) / 100 }
    losses += [18, 19, 20, 18]
    for stop in [0, 1, 40, 101, 150, 202, 249] {
      var first = DivergenceWatch(stepsMax: 3)
      for loss in losses[..<stop] { _ = first.isSound(loss) }
      #expect(first.recentLosses == losses[..<stop].suffix(101))
      var second = DivergenceWatch(stepsMax: 3, recentLosses: first.recentLosses)
      for loss in losses[stop...] {
        #expect(first.isSound(loss) == second.isSound(loss))
        #expect(first.recentLosses == second.recentLosses)
        #expect(first.isSuspect == second.isSuspect && first.reason(loss) == second.reason(loss))
      }
      #expect(first.isSuspect)
    }
    // Without what it knew, it would take an exploded loss for the usual one.
    #expect(sound([50, 50, 50], stepsMax: 3) == [true, true, true])
    var knowing = DivergenceWatch(stepsMax: 3, recentLosses: [1, 1.1, 0.9])
    #expect([50, 50, 50].map { knowing.isSound($0) } == [true, true, false])
  }

  @Test("is not a loss that falls, nor one that rises slowly")
  func slow() {
    var losses = [1000.0]
    for _ in 0..<500 { losses.append(losses[losses.count - 1] * 0.98) }
    for _ in 0..<2000 { losses.append(losses[losses.count - 1] * 1.01) }
    #expect(sound(losses, stepsMax: 1).allSatisfy { $0 })
  }
}
