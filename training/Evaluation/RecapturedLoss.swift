public import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
public import GranuleLanguageModel
internal import GranuleStatistics
internal import GranuleTensors
internal import GranuleThreads

/// What a language model's next-token loss becomes when a dictionary's reconstructions stand in for
/// its residual stream before a block.
///
/// Position 0 of each sequence and end-of-text tokens pass through untouched, in the baselines too:
/// they are attention sinks, without which every figure would be about them.
public struct RecapturedLoss: Sendable {
  /// One granularity at one sparsity.
  public struct Row: Sendable {
    /// Number of latents.
    public var granularity: Int
    /// How k was chosen.
    public var sparsity: Evaluation.Sparsity
    /// Largest number of active latents a token; 0 if the selection rule has no k.
    public var k: Int
    /// Mean number of active latents of a replaced token.
    public var l0: Double
    /// Σ‖x − x̂‖² / Σ‖x − x̄‖² over replaced tokens, x̄ their mean in each dimension.
    public var fvu: Double
    /// Mean cross-entropy with the reconstructions spliced in, nats a token.
    public var crossEntropy: Double
    /// Clean cross-entropy / this one, as the progressive-coding paper reports it; 1 is perfect.
    public var ratio: Double
    /// 1 − (this − clean) / (mean baseline − clean): 1 is perfect, 0 is no better than the mean.
    public var recovered: Double
  }

  /// Granularities ascending, as trained before fixed ratio.
  public let rows: [Row]
  /// Mean cross-entropy of the model as it is, nats a token.
  public let clean: Double
  /// The same with every replaced token's stream set to their mean, x̄.
  public let meanBaseline: Double
  /// The same with it set to zero.
  public let zeroBaseline: Double
  /// Tokens that were predicted.
  public let predictedTokens: Int
  /// Tokens whose residual stream was replaced.
  public let replacedTokens: Int

  /// Measures a dictionary on text, on all cores.
  ///
  /// - Parameters:
  ///   - layer: the block before which reconstructions are spliced in.
  ///   - sequences: tokens, each sequence by itself from position 0 on.
  ///   - endTokens: end-of-text tokens, whose stream is not replaced.
  ///   - granularities: ascending; nil takes those the dictionary lists, or its full size.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked between passes through the model; true ends with `CancellationError`.
  /// - Throws: `TrainingError` if dictionary and model do not fit or a token cannot be encoded;
  ///   `LanguageModelError` if the model cannot take a sequence.
  public init(
    _ dictionary: SparseAutoencoder, in model: LanguageModel, before layer: Int,
    sequences: [[Int32]], endTokens: Set<Int32>, granularities: [Int]? = nil,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
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
    let plan = try Evaluation.plan(dictionary, granularities: granularities)
    let encoder = try SparseEncoder(dictionary)
    let batches = try SpliceBatches.of(sequences, for: shape)
    // Measured in blocks: twice to the layer, then from there for the clean model, both baselines and
    // each row; the output head costs as much as a few blocks.
    let head = 8
    let onwards = shape.blocks - layer + head
    let work = Double(batches.count * (2 * layer + onwards * (3 + plan.count)))
    var done = 0
    func advance(_ blocks: Int) throws {
      done += blocks
      onProgress(Double(done) / max(1, work))
      if shouldStop() { throw CancellationError() }
    }

    let text = Text(model: model, layer: layer, batches: batches, endTokens: endTokens)
    // The mean must be known before anything is replaced by it; activations are computed again
    // rather than kept, so that memory does not grow with the text.
    let (moments, replaced, predicted) = try text.moments(advance: advance)
    let mean = moments.means.map { Float($0) }
    var sums = Sums(rows: plan.count)
    let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }
    for batch in batches {
      try text.addLosses(
        of: batch, plan, encoder, mean: mean, workspaces: workspaces, to: &sums, advance: advance,
        onwards: onwards)
    }

    let tokens = Double(predicted)
    (self.clean, meanBaseline, zeroBaseline) = (
      sums.clean / tokens, sums.mean / tokens, sums.zero / tokens
    )
    let variance = moments.variance
    self.rows = zip(plan, sums.rows).map { row, sum in
      Row(
        granularity: row.granularity, sparsity: row.sparsity, k: row.k,
        l0: Double(sum.active) / Double(replaced), fvu: sum.squaredError / variance,
        crossEntropy: sum.loss / tokens, ratio: sums.clean / sum.loss,
        recovered: 1 - (sum.loss - sums.clean) / (sums.mean - sums.clean))
    }
    predictedTokens = predicted
    replacedTokens = replaced
  }

  /// What is summed over batches: losses, and each row's figures.
  private struct Sums {
    var (clean, mean, zero) = (0.0, 0.0, 0.0)
    var rows: [(squaredError: Double, active: Int, loss: Double)]

    init(rows count: Int) { rows = Array(repeating: (0, 0, 0), count: count) }
  }

  /// Text that goes through the model up to a layer and, with replacements, on from there.
  private struct Text {
    let model: LanguageModel
    let layer: Int
    let batches: [TokenBatch]
    let endTokens: Set<Int32>

    private var shape: LlamaConfiguration { model.configuration }

    /// Moments of all activations that may be replaced.
    ///
    /// - Throws: `TrainingError` if there are none.
    func moments(
      advance: (Int) throws -> Void
    ) throws -> (moments: ColumnMoments, replaced: Int, predicted: Int) {
      var moments = ColumnMoments(columns: shape.dModel)
      var (replaced, predicted) = (0, 0)
      for batch in batches {
        let stream = model.residual(of: batch, before: layer)
        let chunk = SpliceBatches.gather(
          batch.replaceableRows(endTokens: endTokens), of: stream, dModel: shape.dModel)
        let count = chunk.count / shape.dModel
        if count > 0 { moments.add(chunk.pointer, rows: count) }
        replaced += count
        predicted += batch.predictingRows.count
        try advance(layer)
      }
      guard replaced > 0, predicted > 0 else {
        throw TrainingError(
          .unusable(input: "text"), "the text has no token whose activation may be replaced")
      }
      return (moments, replaced, predicted)
    }

    /// Adds a batch's losses: unchanged, with zeros, with the mean, and with each row's
    /// reconstructions.
    func addLosses(
      of batch: TokenBatch, _ plan: [Evaluation.Row], _ encoder: SparseEncoder, mean: [Float],
      workspaces: [EncodeWorkspace], to sums: inout Sums, advance: (Int) throws -> Void,
      onwards: Int
    ) throws {
      let stream = model.residual(of: batch, before: layer)
      let rows = batch.replaceableRows(endTokens: endTokens)
      let chunk = SpliceBatches.gather(rows, of: stream, dModel: shape.dModel)
      try advance(layer)
      func loss(_ replacements: FloatStorage?) throws -> Double {
        let spliced = model.splicing(
          replacements?.values ?? chunk.values, at: rows, into: stream)
        model.advance(spliced, of: batch, from: layer, to: shape.blocks)
        let loss = model.nextTokenLoss(final: spliced, of: batch).sum
        try advance(onwards)
        return loss
      }
      sums.clean += try loss(nil)
      let replacements = FloatStorage(count: chunk.count)
      sums.zero += try loss(replacements)
      for row in rows.indices {
        (replacements.pointer + row * shape.dModel).update(from: mean, count: shape.dModel)
      }
      sums.mean += try loss(replacements)
      for (number, row) in plan.enumerated() {
        do throws(EncodingError) {
          for part in try EvaluationChunks.reconstruct(
            encoder, chunk, granularity: row.granularity, k: row.k, workspaces: workspaces,
            reconstructions: replacements)
          {
            sums.rows[number].squaredError += part.squaredError
            sums.rows[number].active += part.codes.indices.count
          }
        } catch {
          throw TrainingError(
            .unusable(input: "block \(layer)"),
            "an activation before block \(layer) cannot be encoded: \(error)")
        }
        sums.rows[number].loss += try loss(replacements)
      }
    }
  }

  /// As `Evaluation.rows(_:)`.
  public func rows(_ sparsity: Evaluation.Sparsity) -> [Row] {
    Evaluation.rows(rows, sparsity, granularity: \.granularity, sparsity: \.sparsity)
  }
}
