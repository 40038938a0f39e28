import Testing
import Training

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

  @Test("is not a loss that falls, nor one that rises slowly")
  func slow() {
    var losses = [1000.0]
    for _ in 0..<500 { losses.append(losses[losses.count - 1] * 0.98) }
    for _ in 0..<2000 { losses.append(losses[losses.count - 1] * 1.01) }
    #expect(sound(losses, stepsMax: 1).allSatisfy { $0 })
  }
}
