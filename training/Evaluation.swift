internal import Glibc
public import SparseAutoencoder
internal import Tensors

/// How well each granularity of a dictionary reconstructs activations.
public struct Evaluation: Sendable {
  /// How k is chosen at a granularity.
  public enum Sparsity: String, Sendable {
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
    /// Largest number of active latents a token; 0 where the selection rule has no k.
    public var k: Int
    /// Mean number of active latents a token.
    public var l0: Double
    /// Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean of each dimension over the evaluated tokens.
    public var fvu: Double
    /// The same with the mean that the dictionary stores, as a server computes it: nil without one.
    public var fvuStoredMean: Double?
    /// The same with one mean over tokens and dimensions, another reading of the paper; smaller.
    public var fvuScalarMean: Double
  }

  /// Granularities ascending, as trained before fixed ratio.
  public var rows: [Row]
  /// Tokens evaluated.
  public var tokens: Int
  /// Latents that were active for no token in full-width codes.
  public var silentLatents: Int

  /// Tokens that are in memory at once: fewer of a dictionary so large that, by a rule without k, all
  /// their codes might not fit.
  private static func chunkTokens(_ dictionary: SparseAutoencoder) -> Int {
    max(1, min(8192, (1 << 28) / dictionary.latents))
  }

  /// Evaluates `dictionary` on every token of `dataset`, on all cores.
  ///
  /// - Parameters:
  ///   - granularities: ascending; nil takes those the dictionary lists, or its full size.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between chunks of tokens; true ends with `CancellationError`.
  /// - Throws: `TrainingError` where sizes do not fit or a token cannot be encoded.
  public init(
    _ dictionary: SparseAutoencoder, on dataset: ActivationDataset, granularities: [Int]? = nil,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    guard dataset.dModel == dictionary.dModel else {
      throw TrainingError(
        "the activations have d_model \(dataset.dModel), the dictionary \(dictionary.dModel)")
    }
    var rows = try Self.plan(dictionary, granularities: granularities)
    let dModel = dictionary.dModel
    let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }
    var silent = [Bool](repeating: true, count: dictionary.latents)
    var moments = Moments(dModel: dModel)
    var storedMeanVariance = dictionary.activationMean == nil ? nil : 0.0
    var sums = rows.map { _ in (squaredError: 0.0, active: 0) }

    let chunkTokens = Self.chunkTokens(dictionary)
    for start in stride(from: 0, to: dataset.tokens, by: chunkTokens) {
      if shouldStop() { throw CancellationError() }
      let range = start..<min(start + chunkTokens, dataset.tokens)
      let chunk = FloatStorage(count: range.count * dModel)
      dataset.copyTokens(range, into: chunk.pointer)
      moments.add(chunk.pointer, rows: range.count)
      if let variance = dictionary.totalVariance(of: chunk.values) {
        storedMeanVariance = (storedMeanVariance ?? 0) + variance
      }
      for (number, row) in rows.enumerated() {
        let outcome = Self.reconstruct(
          dictionary, chunk, granularity: row.granularity, k: row.k, workspaces: workspaces)
        switch outcome {
        case .success(let parts):
          for part in parts {
            sums[number].squaredError += part.squaredError
            sums[number].active += part.codes.indices.count
            if row.granularity == dictionary.latents, row.sparsity == .asTrained {
              for index in part.codes.indices { silent[Int(index)] = false }
            }
          }
        case .failure(let error): throw Self.located(error, dataset, firstToken: start)
        }
      }
      onProgress(Double(range.upperBound) / Double(dataset.tokens))
    }
    guard moments.variance > 0 else {
      throw TrainingError(
        "\(dataset.paths[0]): every activation is the same, there is no variance to explain")
    }
    for number in rows.indices {
      rows[number].l0 = Double(sums[number].active) / Double(dataset.tokens)
      rows[number].fvu = sums[number].squaredError / moments.variance
      rows[number].fvuStoredMean = storedMeanVariance.map { sums[number].squaredError / $0 }
      rows[number].fvuScalarMean = sums[number].squaredError / moments.scalarMeanVariance
    }
    self.rows = rows
    tokens = dataset.tokens
    silentLatents = silent.count { $0 }
  }

  /// What is to be measured: a row for each granularity and sparsity, without figures.
  ///
  /// - Throws: `TrainingError` where a granularity is none of the dictionary's.
  static func plan(
    _ dictionary: SparseAutoencoder, granularities: [Int]?
  ) throws(TrainingError) -> [Row] {
    let listed = dictionary.granularities.map(\.latents)
    let granularities = granularities ?? (listed.isEmpty ? [dictionary.latents] : listed)
    var rows: [Row] = []
    for granularity in granularities {
      guard (1...dictionary.latents).contains(granularity) else {
        throw TrainingError(
          "granularity \(granularity) must be in 1 … \(dictionary.latents), the dictionary's latents"
        )
      }
      for sparsity in [Sparsity.asTrained, .fixedRatio] {
        let k =
          sparsity == .asTrained
          ? dictionary.defaultK(at: granularity) : dictionary.fixedRatioK(at: granularity)
        // Without a k, or where both agree, there is one row.
        if sparsity == .fixedRatio, k == rows.last?.k { continue }
        rows.append(
          Row(
            granularity: granularity, sparsity: sparsity, k: k, l0: 0, fvu: 0, fvuScalarMean: 0))
      }
    }
    return rows
  }

  /// A dictionary with, at each granularity, the k that full-width codes leave there on average,
  /// and the L0 and FVU that serving it with that k gives, all measured on `dataset`.
  static func calibrated(
    _ dictionary: SparseAutoencoder, granularities: [Int], on dataset: ActivationDataset
  ) throws -> SparseAutoencoder {
    var active = [Int](repeating: 0, count: granularities.count)
    let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }
    let chunkTokens = chunkTokens(dictionary)
    for start in stride(from: 0, to: dataset.tokens, by: chunkTokens) {
      let range = start..<min(start + chunkTokens, dataset.tokens)
      let chunk = FloatStorage(count: range.count * dictionary.dModel)
      dataset.copyTokens(range, into: chunk.pointer)
      let outcome = reconstruct(
        dictionary, chunk, granularity: dictionary.latents,
        k: dictionary.fixedRatioK(at: dictionary.latents), workspaces: workspaces)
      switch outcome {
      case .success(let parts):
        for part in parts {
          for index in part.codes.indices {
            for (number, granularity) in granularities.enumerated() where index < granularity {
              active[number] += 1
            }
          }
        }
      case .failure(let error): throw located(error, dataset, firstToken: start)
      }
    }
    var parts = dictionary.parts
    parts.granularities = zip(granularities, active).map { granularity, active in
      let mean = Double(active) / Double(dataset.tokens)
      return Granularity(
        latents: granularity, k: max(1, min(Int(mean.rounded()), granularity)))
    }
    if let last = parts.granularities.indices.last, case .topk(let k) = parts.selectionRule {
      // The full code is the k latents that it was trained with, whatever few were not positive.
      parts.granularities[last].k = k
    }
    let evaluation = try Evaluation(
      SparseAutoencoder(parts), on: dataset, granularities: granularities)
    for row in evaluation.rows where row.sparsity == .asTrained {
      guard let index = granularities.firstIndex(of: row.granularity) else { continue }
      parts.granularities[index].l0 = Float(row.l0)
      parts.granularities[index].fvu = Float(row.fvu)
    }
    return SparseAutoencoder(parts)
  }

  /// A token that cannot be encoded, named by its file.
  static func located(
    _ error: EncodingError, _ dataset: ActivationDataset, firstToken: Int
  ) -> TrainingError {
    switch error {
    case .notFinite(let token, let dimension):
      TrainingError(
        "\(dataset.describe(token: firstToken + token)): dimension \(dimension) is not finite")
    case .overflow(let token):
      TrainingError(
        "\(dataset.describe(token: firstToken + token)): the activation is too large for float32")
    default: TrainingError("\(error)")
    }
  }

  /// What some of a chunk's tokens became.
  struct Part: Sendable {
    var codes: SparseCodes
    var squaredError: Double
  }

  /// Encodes a chunk on all cores and decodes it at the same granularity.
  ///
  /// - Parameters:
  ///   - chunk: [tokens, d_model]
  ///   - reconstructions: nil, or receives them in raw scale, shaped like `chunk`.
  static func reconstruct(
    _ dictionary: SparseAutoencoder, _ chunk: FloatStorage, granularity: Int, k: Int,
    workspaces: [EncodeWorkspace], reconstructions: FloatStorage? = nil
  ) -> Result<[Part], EncodingError> {
    let dModel = dictionary.dModel
    var results = [Result<Part, EncodingError>?](repeating: nil, count: Parallel.threads)
    results.withUnsafeMutableBufferPointer { results in
      let results = results
      Parallel.forRanges(chunk.count / dModel) { thread, range in
        let rows = UnsafeBufferPointer(
          start: chunk.pointer + range.lowerBound * dModel, count: range.count * dModel)
        do throws(EncodingError) {
          let codes = try dictionary.encode(
            rows, tokens: range.count, granularity: granularity, k: k > 0 ? k : nil,
            workspace: workspaces[thread])
          var errors = [Float](repeating: 0, count: range.count)
          dictionary.nestedDecode(
            codes, activations: rows, granularities: [granularity], squaredErrors: &errors,
            reconstructions: reconstructions.map { $0.pointer + range.lowerBound * dModel })
          results[thread] = .success(
            Part(codes: codes, squaredError: errors.reduce(0.0) { $0 + Double($1) }))
        } catch {
          results[thread] = .failure(error.shifted(by: range.lowerBound))
        }
      }
    }
    var parts: [Part] = []
    for case .some(let result) in results {
      switch result {
      case .success(let part): parts.append(part)
      case .failure(let error): return .failure(error)
      }
    }
    return .success(parts)
  }

  /// Sums for both readings of the variance, shifted by the first row against cancellation.
  struct Moments {
    private var shift: [Double] = []
    private var sums: [Double]
    private var squares: [Double]
    private var rows = 0

    init(dModel: Int) {
      sums = [Double](repeating: 0, count: dModel)
      squares = [Double](repeating: 0, count: dModel)
    }

    mutating func add(_ values: UnsafePointer<Float>, rows newRows: Int) {
      let dModel = sums.count
      if shift.isEmpty { shift = (0..<dModel).map { Double(values[$0]) } }
      for row in 0..<newRows {
        for i in 0..<dModel {
          let value = Double(values[row * dModel + i]) - shift[i]
          sums[i] += value
          squares[i] += value * value
        }
      }
      rows += newRows
    }

    var variance: Double {
      zip(sums, squares).reduce(0) { $0 + $1.1 - $1.0 * $1.0 / Double(rows) }
    }

    /// The mean row.
    var means: [Double] { zip(sums, shift).map { $0 / Double(rows) + $1 } }

    var scalarMeanVariance: Double {
      let means = means
      let mean = means.reduce(0, +) / Double(means.count)
      return variance + Double(rows) * means.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    }
  }
}
