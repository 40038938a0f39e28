public import GranuleData
public import GranuleDictionary
internal import GranuleTensors

/// How often and how strongly each latent of a dictionary is active in full-width codes.
public struct LatentStatistics: Sendable {
  /// Number of tokens for which each latent is active: [latents].
  public private(set) var activeTokens: [Int]
  /// Σ z_j² over tokens, times ‖W_dec[j]‖²: [latents].
  private var squareSums: [Double]
  /// Tokens looked at.
  public private(set) var tokens = 0
  private let squaredNorms: [Double]

  /// Nothing seen yet.
  init(_ dictionary: SparseAutoencoder) {
    activeTokens = [Int](repeating: 0, count: dictionary.latents)
    squareSums = [Double](repeating: 0, count: dictionary.latents)
    let dModel = dictionary.dModel
    squaredNorms = (0..<dictionary.latents).map { latent in
      let row = dictionary.decoderWeights.pointer + latent * dModel
      return (0..<dModel).reduce(0.0) { $0 + Double(row[$1]) * Double(row[$1]) }
    }
  }

  /// Measures `dictionary` on every token of `dataset`, on all cores.
  ///
  /// - Parameters:
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between chunks of tokens; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if sizes do not fit or a token cannot be encoded.
  public init(
    _ dictionary: SparseAutoencoder, on dataset: ActivationDataset,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    self.init(dictionary)
    let chunks = try EvaluationChunks(dictionary, dataset)
    try chunks.forEach(onProgress: onProgress, shouldStop: shouldStop) { chunk in
      for part in try chunks.reconstruct(
        chunk, granularity: dictionary.latents, k: dictionary.fixedRatioK(at: dictionary.latents))
      {
        add(part.codes)
      }
    }
  }

  /// Adds the full-width codes of some tokens.
  mutating func add(_ codes: SparseCodes) {
    tokens += codes.tokens
    for (index, value) in zip(codes.indices, codes.values) {
      activeTokens[Int(index)] += 1
      squareSums[Int(index)] += Double(value) * Double(value) * squaredNorms[Int(index)]
    }
  }

  /// E[1{z_j > 0}]: [latents].
  public var frequencies: [Double] { activeTokens.map { Double($0) / Double(max(tokens, 1)) } }

  /// E[z_j²] · ‖W_dec[j]‖²: [latents], in the scale of inputs after any normalisation. Decoder rows
  /// need not be unit vectors: so weighted, the figure is the same for every scale of a latent that
  /// reconstructs the same.
  public var meanSquaredActivations: [Double] { squareSums.map { $0 / Double(max(tokens, 1)) } }
}
