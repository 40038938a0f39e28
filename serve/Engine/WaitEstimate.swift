/// Estimates how long a call that joins the queue now will wait, from how long batches took lately.
package struct WaitEstimate {
  private let batchTokensMax: Int
  private let workers: Int
  /// A mean that weighs older batches ever less; nil before the first batch.
  private var secondsPerBatch: Double?

  /// An estimate of nothing yet.
  package init(batchTokensMax: Int, workers: Int) {
    self.batchTokensMax = max(batchTokensMax, 1)
    self.workers = max(workers, 1)
  }

  /// Takes in how long a worker spent on a batch.
  package mutating func record(_ duration: Duration) {
    let seconds = duration / .seconds(1)
    secondsPerBatch = secondsPerBatch.map { 0.8 * $0 + 0.2 * seconds } ?? seconds
  }

  /// The expected wait behind `tokens`; zero while nothing is known.
  package func wait(behind tokens: Int) -> Duration {
    // Small calls share batches, so the number of waiting batches counts.
    let batches = Double((tokens + batchTokensMax - 1) / batchTokensMax)
    return .seconds(batches * (secondsPerBatch ?? 0) / Double(workers))
  }
}
