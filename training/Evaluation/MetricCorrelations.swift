internal import GranuleStatistics

/// How metrics go together over the granularities of a dictionary: Pearson's correlation of each two.
public struct MetricCorrelations: Sendable {
  /// How k was chosen.
  public let sparsity: Evaluation.Sparsity
  /// Granularities that were compared.
  public let granularities: Int
  /// The metrics' names, as in the rows of `granule evaluate --json`.
  public let metrics: [String]
  /// −1 … 1: [metrics, metrics]; nil if one of the two is the same everywhere.
  public let values: [[Double?]]

  /// Compares what was measured; nil with fewer than three granularities, of which any two metrics
  /// would correlate perfectly.
  ///
  /// - Parameter recaptured: of the same dictionary at the same granularities, nil if it was not
  ///   measured.
  public init?(
    _ evaluation: Evaluation, _ recaptured: RecapturedLoss?, sparsity: Evaluation.Sparsity
  ) {
    let rows = evaluation.rows(sparsity)
    guard rows.count >= 3 else { return nil }
    var series: [(name: String, values: [Double])] = [
      ("fvu", rows.map(\.fvu)), ("fvu_scalar_mean", rows.map(\.fvuScalarMean)),
      ("l0", rows.map(\.l0)),
    ]
    let similarities = rows.compactMap(\.similarity)
    if similarities.count == rows.count { series.append(("rsa", similarities)) }
    if let losses = recaptured?.rows(sparsity), losses.count == rows.count {
      series.append(("cross_entropy_ratio", losses.map(\.ratio)))
      series.append(("loss_recovered_against_mean", losses.map(\.recovered)))
    }
    self.sparsity = sparsity
    granularities = rows.count
    metrics = series.map(\.name)
    values = series.map { left in
      series.map { PearsonCorrelation(left.values, $0.values).value }
    }
  }
}
