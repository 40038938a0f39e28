/// How long a request that joins the queue now will wait, from how long batches took lately.
package struct WaitEstimate {
  private let batchTokensMax: Int
  private let workers: Int
  /// A mean in which older batches count ever less; nil before the first.
  private var secondsPerBatch: Double?

  /// Knows nothing yet.
  package init(batchTokensMax: Int, workers: Int) {
    self.batchTokensMax = max(batchTokensMax, 1)
    self.workers = max(workers, 1)
  }

  /// A worker has spent so long on a batch.
  package mutating func record(_ duration: Duration) {
    let seconds = duration / .seconds(1)
    secondsPerBatch = secondsPerBatch.map { 0.8 * $0 + 0.2 * seconds } ?? seconds
  }

  /// The wait behind so many tokens; zero while nothing is known.
  package func wait(behind tokens: Int) -> Duration {
    // Small requests share batches: what counts is how many batches wait.
    let batches = Double((tokens + batchTokensMax - 1) / batchTokensMax)
    return .seconds(batches * (secondsPerBatch ?? 0) / Double(workers))
  }
}
