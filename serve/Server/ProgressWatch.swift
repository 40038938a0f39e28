/// Whether a peer moves enough bytes while there is something to move; a state machine that is told
/// the time.
package struct ProgressWatch {
  private let window: Duration
  private let bytesMin: Int
  private var start: (time: ContinuousClock.Instant, bytes: Int)?

  /// A watch that expects `bytesPerSecondMin` in each window, and one byte at least.
  package init(window: Duration, bytesPerSecondMin: Int) {
    self.window = window
    bytesMin = max(Int(Double(bytesPerSecondMin) * (window / .seconds(1))), 1)
  }

  /// Takes in the progress; to be called now and then.
  ///
  /// - Parameters:
  ///   - isPending: whether there is something that the peer should send or read.
  ///   - bytes: all that has been moved so far.
  /// - Returns: true if a whole window has passed with something pending and too few bytes moved.
  package mutating func isStalled(
    isPending: Bool, bytes: Int, now: ContinuousClock.Instant
  ) -> Bool {
    guard isPending else {
      start = nil
      return false
    }
    guard let begin = start else {
      start = (now, bytes)
      return false
    }
    guard begin.time.duration(to: now) >= window else { return false }
    start = (now, bytes)
    return bytes - begin.bytes < bytesMin
  }
}
