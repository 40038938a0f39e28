public import GranuleErrors

/// The smallest set of latents that has a fixed share of all attribution (Martin-Linares & Ling,
/// arXiv 2512.24975).
public struct CoreSelection: Sendable, Equatable {
  /// The latents that were selected, in descending order of their scores, of equal ones the first.
  public let latents: [Int]
  /// The share of all attribution that the first 1, 2, … latents of that order have, to the last
  /// whose score is above 0.
  public let coverageCurve: [Double]

  /// Selects from `scores`, [candidates].
  ///
  /// - Parameter coverage: the share of their sum to be reached, above 0, at most 1.
  /// - Throws: `TrainingError` if `coverage` is not such a share, or no score is above 0.
  public init(scores: [Double], coverage: Double) throws(TrainingError) {
    try Self.validate(coverage: coverage)
    let order = scores.indices.filter { scores[$0] > 0 }
      .sorted { (scores[$1], $0) < (scores[$0], $1) }
    guard !order.isEmpty else {
      throw TrainingError(
        .unusable(input: "text"),
        "no latent of the innermost granularity has any attribution: none was active on the text, "
          + "train longer or attribute on more tokens")
    }
    var sums: [Double] = []
    var sum = 0.0
    for latent in order {
      sum += scores[latent]
      sums.append(sum)
    }
    let wanted = coverage * sum
    let count = (sums.firstIndex { $0 >= wanted } ?? sums.count - 1) + 1
    latents = Array(order.prefix(count))
    coverageCurve = sums.map { $0 / sum }
  }

  /// - Throws: `TrainingError` if it is not above 0 and at most 1.
  static func validate(coverage: Double) throws(TrainingError) {
    guard coverage > 0, coverage <= 1 else {
      throw TrainingError.invalid("coverage", coverage, "above 0 and at most 1")
    }
  }
}
