internal import GranuleErrors
internal import GranuleStatistics

/// How a latent's attributions at single tokens become its score.
///
/// The paper takes a high quantile over positions; which one, over which positions, and whether of
/// absolute values, is not known.
public enum AttributionAggregation: Sendable, Equatable {
  /// The mean of absolute values over all tokens.
  case meanAbsolute
  /// A quantile of absolute values, linearly interpolated between the nearest ranks.
  case quantile(Double, over: Positions)

  /// The tokens over which a quantile is taken.
  public enum Positions: String, Sendable, CaseIterable {
    /// Those for which the latent is active.
    case active
    /// All: the quantile q of a latent that is active for fewer than 1 − q of them is 0.
    case all
  }

  /// What is taken unless another is asked for.
  public static let standard = AttributionAggregation.quantile(0.99, over: .active)

  /// - Throws: `TrainingError` if the quantile is outside 0 … 1.
  func validate() throws(TrainingError) {
    guard case .quantile(let quantile, _) = self, !(0...1).contains(quantile) else { return }
    throw TrainingError.invalid("quantile", quantile, "in 0 … 1")
  }

  /// The score of a latent that has these attributions where it is active, and 0 at all others of
  /// `tokens` tokens.
  package func score(_ attributions: [Float], tokens: Int) -> Double {
    guard !attributions.isEmpty else { return 0 }
    switch self {
    case .meanAbsolute:
      return attributions.reduce(0) { $0 + Double(abs($1)) } / Double(tokens)
    case .quantile(let quantile, let positions):
      let zeros = positions == .active ? 0 : tokens - attributions.count
      let sorted = attributions.map { Double(abs($0)) }.sorted()
      return Quantile.interpolated(quantile, count: zeros + sorted.count) { rank in
        rank < zeros ? 0 : sorted[rank - zeros]
      }
    }
  }
}
