package import GranuleData
package import GranuleDictionary

extension Evaluation {
  /// A dictionary with, at each granularity, the k that full-width codes leave there on average,
  /// and the L0 and FVU that serving it with that k gives, all measured on `dataset`. Where the
  /// selection rule has no k, it is 0.
  ///
  /// - Parameters:
  ///   - granularities: ascending.
  ///   - activeTokens: for how many of the dataset's tokens each latent is active in full-width codes,
  ///     [latents]; nil measures it.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between chunks of tokens; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if sizes do not fit or a token cannot be encoded.
  package static func calibrated(
    _ dictionary: SparseAutoencoder, granularities: [Int], on dataset: ActivationDataset,
    activeTokens: [Int]? = nil, onProgress: (Double) -> Void = { _ in },
    shouldStop: () -> Bool = { false }
  ) throws -> SparseAutoencoder {
    let measuring = activeTokens == nil ? 0.5 : 0
    let activeTokens =
      try activeTokens
      ?? LatentStatistics(
        dictionary, on: dataset, onProgress: { onProgress($0 * measuring) }, shouldStop: shouldStop
      ).activeTokens
    var parts = dictionary.parts
    parts.granularities = granularities.map { granularity in
      guard case .topk(let fullK) = dictionary.selectionRule else {
        return Granularity(latents: granularity, k: 0)
      }
      // The full code is the k latents that it was trained with, whatever few were not positive.
      if granularity == dictionary.latents { return Granularity(latents: granularity, k: fullK) }
      let mean = Double(activeTokens[..<granularity].reduce(0, +)) / Double(dataset.tokens)
      return Granularity(latents: granularity, k: max(1, min(Int(mean.rounded()), granularity)))
    }
    let evaluation = try Evaluation(
      SparseAutoencoder(parts), on: dataset, granularities: granularities,
      sparsities: [.asTrained],
      onProgress: { onProgress(measuring + (1 - measuring) * $0) }, shouldStop: shouldStop)
    for (index, row) in evaluation.rows.enumerated() {
      parts.granularities[index].l0 = Float(row.l0)
      parts.granularities[index].fvu = Float(row.fvu)
    }
    return SparseAutoencoder(parts)
  }
}
