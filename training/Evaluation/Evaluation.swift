public import GranuleData
public import GranuleDictionary
internal import GranuleErrors
internal import GranuleStatistics
internal import GranuleTensors

/// How well each granularity of a dictionary reconstructs activations.
public struct Evaluation: Sendable {
  /// How k is chosen at a granularity.
  public enum Sparsity: String, Sendable, CaseIterable {
    /// The prefix's own: what it holds of full-width codes (`SparseAutoencoder.defaultK`).
    case asTrained = "as-trained"
    /// k · G / N, as the progressive-coding paper evaluates.
    case fixedRatio = "fixed-ratio"
  }

  /// One granularity at one sparsity.
  public struct Row: Sendable {
    /// Number of latents.
    public var granularity: Int
    /// How k was chosen.
    public var sparsity: Sparsity
    /// Largest number of active latents a token; 0 if the selection rule has no k.
    public var k: Int
    /// Mean number of active latents a token.
    public var l0: Double
    /// Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean of each dimension over the evaluated tokens.
    public var fvu: Double
    /// The same with the mean that the dictionary stores, as a server computes it: nil without one.
    public var fvuStoredMean: Double?
    /// The same with one mean over tokens and dimensions, another reading of the paper; smaller.
    public var fvuScalarMean: Double
    /// Representational similarity of activations and reconstructions, on a sample
    /// (`RepresentationalSimilarity`); nil if it was not asked for or is not defined.
    public var similarity: Double?
    /// Latents of the prefix that were active for no token.
    public var deadLatents: Int
  }

  /// Granularities ascending, as trained before fixed ratio.
  public var rows: [Row]
  /// Tokens evaluated.
  public var tokens: Int
  /// Tokens that similarities were measured on.
  public var similaritySamples: Int
  /// How often and how strongly each latent is active in full-width codes.
  public var latentStatistics: LatentStatistics

  /// Evaluates `dictionary` on every token of `dataset`, on all cores.
  ///
  /// - Parameters:
  ///   - granularities: ascending; nil takes those the dictionary lists, or its full size.
  ///   - sparsities: how k is chosen.
  ///   - similaritySamples: tokens, at even distances, to measure representational similarity on, at
  ///     most `RepresentationalSimilarity.samplesMax`; 0 leaves it out.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between chunks of tokens; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if sizes do not fit or a token cannot be encoded.
  public init(
    _ dictionary: SparseAutoencoder, on dataset: ActivationDataset, granularities: [Int]? = nil,
    sparsities: [Sparsity] = Sparsity.allCases, similaritySamples: Int = 0,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    let chunks = try EvaluationChunks(dictionary, dataset)
    var rows = try Self.plan(dictionary, granularities: granularities, sparsities: sparsities)
    let dModel = dictionary.dModel
    let (latents, fullK) = (dictionary.latents, dictionary.defaultK(at: dictionary.latents))
    let fullWidth = rows.firstIndex { $0.granularity == latents && $0.k == fullK }
    var statistics = LatentStatistics(dictionary)
    var moments = ColumnMoments(columns: dModel)
    var storedMeanVariance = dictionary.activationMean == nil ? nil : 0.0
    var sums = rows.map { row in
      (squaredError: 0.0, active: 0, isDead: [Bool](repeating: true, count: row.granularity))
    }

    // The sample's distances take about as long as encoding it again.
    let samples = similaritySamples > 0 ? min(similaritySamples, dataset.tokens) : 0
    let passShare = Double(dataset.tokens) / Double(dataset.tokens + 2 * samples)
    try chunks.forEach(onProgress: { onProgress($0 * passShare) }, shouldStop: shouldStop) {
      chunk in
      moments.add(chunk.activations.pointer, rows: chunk.activations.count / dModel)
      if let variance = dictionary.totalVariance(of: chunk.activations.values) {
        storedMeanVariance = (storedMeanVariance ?? 0) + variance
      }
      for (number, row) in rows.enumerated() {
        for part in try chunks.reconstruct(chunk, granularity: row.granularity, k: row.k) {
          sums[number].squaredError += part.squaredError
          sums[number].active += part.codes.indices.count
          for index in part.codes.indices { sums[number].isDead[Int(index)] = false }
          if number == fullWidth { statistics.add(part.codes) }
        }
      }
      if fullWidth == nil {
        for part in try chunks.reconstruct(chunk, granularity: latents, k: fullK) {
          statistics.add(part.codes)
        }
      }
    }
    guard moments.variance > 0 else {
      throw TrainingError(
        .unusable(input: dataset.paths[0]),
        "\(dataset.paths[0]): every activation is the same, there is no variance to explain")
    }
    for number in rows.indices {
      rows[number].l0 = Double(sums[number].active) / Double(dataset.tokens)
      rows[number].fvu = sums[number].squaredError / moments.variance
      rows[number].fvuStoredMean = storedMeanVariance.map { sums[number].squaredError / $0 }
      rows[number].fvuScalarMean = sums[number].squaredError / moments.scalarMeanVariance
      rows[number].deadLatents = sums[number].isDead.count { $0 }
    }
    if samples > 0 {
      let sample = chunks.sample(samples)
      let similarity = RepresentationalSimilarity(sample.activations, dModel: dModel)
      let reconstructions = FloatStorage(count: sample.activations.count)
      for number in rows.indices {
        if shouldStop() { throw CancellationError() }
        _ = try chunks.reconstruct(
          sample, granularity: rows[number].granularity, k: rows[number].k,
          reconstructions: reconstructions)
        rows[number].similarity = similarity.correlation(with: reconstructions)
        onProgress(passShare + (1 - passShare) * Double(number + 1) / Double(rows.count))
      }
    }
    self.rows = rows
    tokens = dataset.tokens
    self.similaritySamples = samples
    latentStatistics = statistics
  }

  /// The sparsities that there are: without a k none is in proportion to G.
  public var sparsities: [Sparsity] {
    rows.contains { $0.k > 0 } ? Sparsity.allCases : [.asTrained]
  }

  /// The rows of one sparsity, granularities ascending: if both sparsities have the same k, the
  /// one row there is.
  public func rows(_ sparsity: Sparsity) -> [Row] {
    Self.rows(rows, sparsity, granularity: \.granularity, sparsity: \.sparsity)
  }

  /// See `rows(_:)`; for rows of several kinds.
  static func rows<Row>(
    _ rows: [Row], _ sparsity: Sparsity, granularity: KeyPath<Row, Int>,
    sparsity sparsityOf: KeyPath<Row, Sparsity>
  ) -> [Row] {
    var result: [Row] = []
    for row in rows {
      if result.last?[keyPath: granularity] != row[keyPath: granularity] {
        result.append(row)
      } else if row[keyPath: sparsityOf] == sparsity {
        result[result.count - 1] = row
      }
    }
    return result
  }

  /// What is to be measured: a row for each granularity and sparsity, without figures.
  ///
  /// - Throws: `TrainingError` if a granularity is none of the dictionary's.
  static func plan(
    _ dictionary: SparseAutoencoder, granularities: [Int]?,
    sparsities: [Sparsity] = Sparsity.allCases
  ) throws(TrainingError) -> [Row] {
    let listed = dictionary.granularities.map(\.latents)
    let granularities = granularities ?? (listed.isEmpty ? [dictionary.latents] : listed)
    var rows: [Row] = []
    for granularity in granularities {
      guard (1...dictionary.latents).contains(granularity) else {
        throw TrainingError.invalid(
          "granularity", granularity, "in 1 … \(dictionary.latents), the dictionary's latents")
      }
      for sparsity in sparsities {
        let k =
          sparsity == .asTrained
          ? dictionary.defaultK(at: granularity) : dictionary.fixedRatioK(at: granularity)
        // Without a k, or if both agree, there is one row.
        if let last = rows.last, last.granularity == granularity, last.k == k { continue }
        rows.append(
          Row(
            granularity: granularity, sparsity: sparsity, k: k, l0: 0, fvu: 0, fvuScalarMean: 0,
            deadLatents: 0))
      }
    }
    return rows
  }
}
