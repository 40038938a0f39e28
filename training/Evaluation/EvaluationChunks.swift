internal import GranuleData
internal import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
internal import GranuleTensors
internal import GranuleThreads

/// Goes through a dataset in chunks that fit into memory, encoding and decoding on all cores.
struct EvaluationChunks {
  /// Consecutive tokens of the dataset in memory.
  struct Chunk {
    /// [tokens, d_model], raw.
    var activations: FloatStorage
    /// The number in the dataset of each token, for messages.
    var token: (Int) -> Int
  }

  /// What some of a chunk's tokens became.
  struct Part: Sendable {
    var codes: SparseCodes
    var squaredError: Double
  }

  private let encoder: SparseEncoder
  private let dataset: ActivationDataset
  private let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }

  /// - Throws: `TrainingError` if d_model of both differ.
  init(_ dictionary: SparseAutoencoder, _ dataset: ActivationDataset) throws(TrainingError) {
    guard dataset.dModel == dictionary.dModel else {
      throw TrainingError(
        .mismatch,
        "the activations have d_model \(dataset.dModel), the dictionary \(dictionary.dModel)")
    }
    do throws(EncodingError) { encoder = try SparseEncoder(dictionary) } catch {
      throw TrainingError(.unusable(input: "dictionary"), "\(error)")
    }
    self.dataset = dataset
  }

  /// Tokens that are in memory at once: fewer of a dictionary so large that, by a rule without k, all
  /// their codes might not fit.
  private var chunkTokens: Int { max(1, min(8192, (1 << 28) / encoder.dictionary.latents)) }

  /// Calls `body` with every token of the dataset, in order.
  ///
  /// - Parameters:
  ///   - onProgress: told the share done, 0 … 1.
  ///   - shouldStop: asked before each chunk; true ends with `CancellationError`.
  func forEach(
    onProgress: (Double) -> Void, shouldStop: () -> Bool, _ body: (Chunk) throws -> Void
  ) throws {
    for start in stride(from: 0, to: dataset.tokens, by: chunkTokens) {
      if shouldStop() { throw CancellationError() }
      let range = start..<min(start + chunkTokens, dataset.tokens)
      let activations = FloatStorage(count: range.count * dataset.dModel)
      dataset.copyTokens(range, into: activations.pointer)
      try body(Chunk(activations: activations, token: { start + $0 }))
      onProgress(Double(range.upperBound) / Double(dataset.tokens))
    }
  }

  /// Tokens at even distances over the whole dataset, all of them if there are no more than
  /// `count`.
  func sample(_ count: Int) -> Chunk {
    let (tokens, count) = (dataset.tokens, min(count, dataset.tokens))
    let activations = FloatStorage(count: count * dataset.dModel)
    for number in 0..<count {
      dataset.copyToken(
        tokens * number / count, into: activations.pointer + number * dataset.dModel)
    }
    return Chunk(activations: activations, token: { tokens * $0 / count })
  }

  /// Encodes a chunk and decodes it at the same granularity.
  ///
  /// - Parameter reconstructions: nil, or receives them in raw scale, shaped like the chunk.
  /// - Throws: `TrainingError` naming file and row of a token that cannot be encoded.
  func reconstruct(
    _ chunk: Chunk, granularity: Int, k: Int, reconstructions: FloatStorage? = nil
  ) throws(TrainingError) -> [Part] {
    do throws(EncodingError) {
      return try Self.reconstruct(
        encoder, chunk.activations, granularity: granularity, k: k, workspaces: workspaces,
        reconstructions: reconstructions)
    } catch {
      throw located(error, chunk)
    }
  }

  /// A token that cannot be encoded, named by its file.
  private func located(_ error: EncodingError, _ chunk: Chunk) -> TrainingError {
    switch error {
    case .notFinite(let token, let dimension):
      TrainingError(
        .unusable(input: dataset.describe(token: chunk.token(token))),
        "\(dataset.describe(token: chunk.token(token))): dimension \(dimension) is not finite")
    case .overflow(let token):
      TrainingError(
        .unusable(input: dataset.describe(token: chunk.token(token))),
        dataset.describeOverflow(
          token: chunk.token(token), encoder: encoder.dictionary.encoderWeights))
    default: TrainingError(.mismatch, "\(error)")
    }
  }

  /// Encodes tokens on all cores and decodes them at the same granularity.
  ///
  /// - Parameters:
  ///   - activations: [tokens, d_model]
  ///   - k: 0 if the selection rule has none.
  ///   - workspaces: one a core.
  ///   - reconstructions: nil, or receives them in raw scale, shaped like `activations`.
  static func reconstruct(
    _ encoder: SparseEncoder, _ activations: FloatStorage, granularity: Int, k: Int,
    workspaces: [EncodeWorkspace], reconstructions: FloatStorage? = nil
  ) throws(EncodingError) -> [Part] {
    let dModel = encoder.dictionary.dModel
    var results = [Result<Part, EncodingError>?](repeating: nil, count: Parallel.threads)
    results.withUnsafeMutableBufferPointer { results in
      let results = results
      Parallel.forRanges(activations.count / dModel) { thread, range in
        let rows = UnsafeBufferPointer(
          start: activations.pointer + range.lowerBound * dModel, count: range.count * dModel)
        do throws(EncodingError) {
          let codes = try encoder.encode(
            EncodeInput(activations: rows, granularity: granularity, k: k > 0 ? k : nil),
            in: workspaces[thread])
          var errors = [Float](repeating: 0, count: range.count)
          encoder.nestedDecode(
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
    for case .some(let result) in results { parts.append(try result.get()) }
    return parts
  }
}
