internal import CGranuleKernels
public import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
internal import GranuleEvaluation
public import GranuleLanguageModel
package import GranuleTensors
internal import GranuleThreads

/// What single latents do for a language model's next-token loss: gradient × activation through the
/// innermost reconstruction (Martin-Linares & Ling, arXiv 2512.24975).
///
/// Of latent j at a token it is z_j · ⟨∂loss/∂x̂, W_dec[j]⟩, where x̂ is what the innermost granularity
/// makes of the token in full-width codes, spliced into the residual stream, and the loss is the sum
/// of next-token cross-entropies in nats: to first order, what the loss would lose without the latent
/// there. Position 0 of each sequence and end-of-text tokens are not replaced and have none.
public struct LatentAttribution: Sendable, Equatable {
  /// Each latent's attributions at single tokens, made one: [granularity].
  public let scores: [Double]
  /// The share of tokens for which each latent is active: [granularity].
  public let frequencies: [Double]
  /// Tokens whose residual stream was replaced.
  public let tokens: Int
  /// Mean next-token cross-entropy with the reconstructions spliced in, nats a token.
  public let crossEntropy: Double
  /// How long it took, nil if nobody measured it.
  public var seconds: Double?

  /// What was measured before.
  init(scores: [Double], frequencies: [Double], tokens: Int, crossEntropy: Double) {
    self.scores = scores
    self.frequencies = frequencies
    self.tokens = tokens
    self.crossEntropy = crossEntropy
  }

  /// Attributes on all cores. What is kept grows with the number of active latents of all tokens, four
  /// bytes each.
  ///
  /// - Parameters:
  ///   - granularity: number of first latents that are spliced in and attributed.
  ///   - layer: the block before which they are.
  ///   - sequences: tokens, each sequence by itself from position 0 on.
  ///   - endTokens: end-of-text tokens, whose stream is not replaced.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between passes through the model; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if dictionary and model do not fit, a token cannot be encoded, or the
  ///   loss or its gradient is not finite;
  ///   `LanguageModelError` if the model cannot take a sequence.
  public init(
    of dictionary: SparseAutoencoder, granularity: Int, in model: LanguageModel, before layer: Int,
    sequences: [[Int32]], endTokens: Set<Int32>,
    aggregation: AttributionAggregation = .standard,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    try aggregation.validate()
    var attributions = [[Float]](repeating: [], count: granularity)
    var (tokens, predicted, loss) = (0, 0, 0.0)
    try Self.forEachBatch(
      of: dictionary, granularity: granularity, in: model, before: layer, sequences: sequences,
      endTokens: endTokens, onProgress: onProgress, shouldStop: shouldStop
    ) { batch in
      tokens += batch.codes.tokens
      predicted += batch.loss.crossEntropies.count
      loss += batch.loss.sum
      for (latent, attribution) in zip(batch.codes.indices, batch.attributions) {
        attributions[Int(latent)].append(attribution)
      }
    }
    guard tokens > 0, predicted > 0 else {
      throw TrainingError(
        .unusable(input: "text"), "the text has no token whose activation may be replaced")
    }
    scores = attributions.map { aggregation.score($0, tokens: tokens) }
    frequencies = attributions.map { Double($0.count) / Double(tokens) }
    self.tokens = tokens
    crossEntropy = loss / Double(predicted)
  }

  /// One batch's latents and what each does for the loss.
  package struct Batch {
    /// The replaced tokens' latents of the innermost granularity.
    package var codes: SparseCodes
    /// For each of them: [nonzeros].
    package var attributions: [Float]
    /// With the reconstructions spliced in.
    package var loss: NextTokenLoss
  }

  /// Calls `body` with the attributions at single tokens, batch by batch; for the rest see `init`.
  package static func forEachBatch(
    of dictionary: SparseAutoencoder, granularity: Int, in model: LanguageModel, before layer: Int,
    sequences: [[Int32]], endTokens: Set<Int32>, onProgress: (Double) -> Void = { _ in },
    shouldStop: () -> Bool = { false }, _ body: (Batch) -> Void
  ) throws {
    let shape = model.configuration
    guard dictionary.dModel == shape.dModel else {
      throw TrainingError(
        .mismatch,
        "the dictionary has d_model \(dictionary.dModel), \(shape.name) has \(shape.dModel)")
    }
    guard (0...shape.blocks).contains(layer) else {
      throw TrainingError.invalid("layer", layer, "in 0 … \(shape.blocks), \(shape.name)'s blocks")
    }
    guard (1...dictionary.latents).contains(granularity) else {
      throw TrainingError.invalid(
        "granularity", granularity, "in 1 … \(dictionary.latents), the dictionary's latents")
    }
    guard dictionary.inputNormalization == .none else {
      throw TrainingError(
        .unusable(input: "dictionary"),
        "the dictionary normalises its inputs (\(dictionary.inputNormalization.rawValue)), only those "
          + "that do not can be attributed")
    }
    let dModel = shape.dModel
    let workspace = EncodeWorkspace(threads: Parallel.threads)
    let encoder: SparseEncoder
    do throws(EncodingError) { encoder = try SparseEncoder(dictionary) } catch {
      throw TrainingError(.unusable(input: "dictionary"), "\(error)")
    }
    let batches = try SpliceBatches.of(sequences, for: shape)
    for (number, batch) in batches.enumerated() {
      if shouldStop() { throw CancellationError() }
      let stream = model.residual(of: batch, before: layer)
      let rows = batch.replaceableRows(endTokens: endTokens)
      let chunk = SpliceBatches.gather(rows, of: stream, dModel: dModel)
      let codes: SparseCodes
      do throws(EncodingError) {
        codes = try encoder.encode(
          EncodeInput(activations: chunk.values, granularity: dictionary.latents), in: workspace
        ).prefix(granularity: granularity)
      } catch {
        throw TrainingError(
          .unusable(input: "block \(layer)"),
          "an activation before block \(layer) cannot be encoded: \(error)")
      }
      let reconstructions = FloatStorage(count: chunk.count)
      var errors = [Float](repeating: 0, count: rows.count)
      encoder.nestedDecode(
        codes, activations: chunk.values, granularities: [granularity],
        squaredErrors: &errors, reconstructions: reconstructions.pointer)
      let spliced = model.splicing(
        reconstructions.values, at: rows, into: stream)
      let (loss, gradient) = model.lossGradient(of: batch, at: spliced, before: layer)
      let attributions = attributions(
        of: codes, dictionary, rows: rows, gradient: gradient,
        // Of the sum: the mean's would depend on how text is cut into batches.
        scale: Float(loss.crossEntropies.count))
      guard loss.sum.isFinite, attributions.allSatisfy(\.isFinite) else {
        throw TrainingError(
          .unusable(input: "dictionary"),
          "\(shape.name): with the reconstruction spliced in before block \(layer) the next-token "
            + "loss or its gradient is not finite: nothing can be attributed")
      }
      body(Batch(codes: codes, attributions: attributions, loss: loss))
      onProgress(Double(number + 1) / Double(batches.count))
    }
  }

  private static func attributions(
    of codes: SparseCodes, _ dictionary: SparseAutoencoder, rows: [Int], gradient: FloatStorage,
    scale: Float
  ) -> [Float] {
    let dModel = dictionary.dModel
    var result: [Float] = []
    result.reserveCapacity(codes.indices.count)
    for (token, row) in rows.enumerated() {
      for position in Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1]) {
        let decoderRow = dictionary.decoderWeights.pointer + Int(codes.indices[position]) * dModel
        let product = gk_dot(gradient.pointer + row * dModel, decoderRow, dModel)
        result.append(scale * codes.values[position] * product)
      }
    }
    return result
  }
}
