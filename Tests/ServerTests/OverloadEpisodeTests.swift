import GranuleServer
import Testing

@Suite struct OverloadEpisodeTests {
  private let start = ContinuousClock.now

  @Test(
    "an episode begins with the first that is refused or given less, and ends after a quiet time")
  func episode() {
    var episode = OverloadEpisode(quiet: .seconds(10))
    func look(_ second: Int, shed: UInt64, refused: UInt64) -> OverloadEpisode.Event? {
      episode.observe(shed: shed, refused: refused, now: start + .seconds(second))
    }
    #expect(look(0, shed: 0, refused: 0) == nil)
    #expect(look(1, shed: 3, refused: 0) == .began)
    #expect(look(2, shed: 5, refused: 1) == nil)
    #expect(look(11, shed: 5, refused: 1) == nil)
    // Once more, within the quiet time: the same episode.
    #expect(look(11, shed: 5, refused: 2) == nil)
    #expect(look(20, shed: 5, refused: 2) == nil)
    #expect(look(21, shed: 5, refused: 2) == .ended(after: .seconds(10), shed: 5, refused: 2))
    #expect(look(60, shed: 5, refused: 2) == nil)
    #expect(look(61, shed: 6, refused: 2) == .began)
    #expect(look(71, shed: 6, refused: 2) == .ended(after: .zero, shed: 1, refused: 0))
  }
}
