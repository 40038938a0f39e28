public import GranuleData
public import GranuleDictionary
internal import GranuleErrors
internal import GranuleTensors

/// By what the latents of a dictionary are sorted, so that every prefix of it is as good as can be
/// (Progressive Coding for SAEs, section 3: reordering a trained dictionary).
public enum LatentOrdering: String, Sendable, CaseIterable {
  /// E[z_j²] · ‖W_dec[j]‖², descending.
  case meanSquaredActivation = "mean-squared-activation"
  /// E[1{z_j > 0}], descending.
  case frequency

  /// What each latent is sorted by: [latents].
  func keys(_ statistics: LatentStatistics) -> [Double] {
    switch self {
    case .meanSquaredActivation: statistics.meanSquaredActivations
    case .frequency: statistics.frequencies
    }
  }

  /// `dictionary` with its latents in descending order of what this is, measured on `dataset`;
  /// latents that are equal stay in order. Its granularities are calibrated as those of a trained
  /// dictionary, its `latentOrder` refers to the dictionary that was ordered first. A mean and a
  /// deviation of the activations are stored if it had none.
  ///
  /// - Parameters:
  ///   - granularities: ascending, each 1 … latents; nil takes N / 16, N / 8 … N.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between chunks of tokens; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if sizes do not fit or a token cannot be encoded.
  public func order(
    _ dictionary: SparseAutoencoder, on dataset: ActivationDataset, granularities: [Int]? = nil,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws -> SparseAutoencoder {
    let granularities = granularities ?? Self.defaultGranularities(latents: dictionary.latents)
    // Refused now, not after the first pass.
    _ = try Evaluation.plan(dictionary, granularities: granularities)
    let statistics = try LatentStatistics(
      dictionary, on: dataset, onProgress: { onProgress($0 / 3) }, shouldStop: shouldStop)
    let keys = keys(statistics)
    let order = keys.indices.sorted { (keys[$1], $0) < (keys[$0], $1) }
    var parts = dictionary.permuted(order).parts
    parts.provenance.orderedBy = rawValue
    if parts.activationMean == nil || parts.activationDeviation == nil {
      let measured = try ActivationStatistics(dataset)
      parts.activationMean = parts.activationMean ?? measured.mean
      parts.activationDeviation = parts.activationDeviation ?? measured.deviation
    }
    return try Evaluation.calibrated(
      SparseAutoencoder(parts), granularities: granularities, on: dataset,
      activeTokens: order.map { statistics.activeTokens[$0] },
      onProgress: { onProgress((1 + 2 * $0) / 3) }, shouldStop: shouldStop)
  }

  /// N / 16, N / 8, N / 4, N / 2, N; fewer if N is small.
  static func defaultGranularities(latents: Int) -> [Int] {
    stride(from: 4, through: 0, by: -1).map { latents >> $0 }.filter { $0 > 0 }
  }
}
