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
    /// Largest number of active latents a token; 0 where the selection rule has no k.
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
  /// - Throws: `TrainingError` where dictionary and model do not fit or a token cannot be encoded;
  ///   `LanguageModelError` where the model cannot take a sequence.
  public init(
    _ dictionary: SparseAutoencoder, in model: LanguageModel, before layer: Int,
    sequences: [[Int32]], endTokens: Set<Int32>, granularities: [Int]? = nil,
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    let shape = model.configuration
    guard dictionary.dModel == shape.dModel else {
      throw TrainingError(
        "the dictionary has d_model \(dictionary.dModel), \(shape.name) has \(shape.dModel)")
    }
    guard (0...shape.blocks).contains(layer) else {
      throw TrainingError("layer is \(layer), \(shape.name) has 0 … \(shape.blocks)")
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

    // The mean must be known before anything is replaced by it; activations are computed again
    // rather than kept, so that memory does not grow with the text.
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
      throw TrainingError("the text has no token whose activation may be replaced")
    }
    let mean = moments.means.map { Float($0) }

    var sums = [(squaredError: Double, active: Int, loss: Double)](
      repeating: (0, 0, 0), count: plan.count)
    var (clean, meanLoss, zeroLoss) = (0.0, 0.0, 0.0)
    let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }
    for batch in batches {
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
      clean += try loss(nil)
      let replacements = FloatStorage(count: chunk.count)
      zeroLoss += try loss(replacements)
      for row in rows.indices {
        (replacements.pointer + row * shape.dModel).update(from: mean, count: shape.dModel)
      }
      meanLoss += try loss(replacements)
      for (number, row) in plan.enumerated() {
        do throws(EncodingError) {
          for part in try EvaluationChunks.reconstruct(
            encoder, chunk, granularity: row.granularity, k: row.k, workspaces: workspaces,
            reconstructions: replacements)
          {
            sums[number].squaredError += part.squaredError
            sums[number].active += part.codes.indices.count
          }
        } catch {
          throw TrainingError("an activation before block \(layer) cannot be encoded: \(error)")
        }
        sums[number].loss += try loss(replacements)
      }
    }

    let tokens = Double(predicted)
    (self.clean, meanBaseline, zeroBaseline) = (
      clean / tokens, meanLoss / tokens, zeroLoss / tokens
    )
    let variance = moments.variance
    self.rows = zip(plan, sums).map { row, sum in
      Row(
        granularity: row.granularity, sparsity: row.sparsity, k: row.k,
        l0: Double(sum.active) / Double(replaced), fvu: sum.squaredError / variance,
        crossEntropy: sum.loss / tokens, ratio: clean / sum.loss,
        recovered: 1 - (sum.loss - clean) / (meanLoss - clean))
    }
    predictedTokens = predicted
    replacedTokens = replaced
  }

  /// As `Evaluation.rows(_:)`.
  public func rows(_ sparsity: Evaluation.Sparsity) -> [Row] {
    Evaluation.rows(rows, sparsity, granularity: \.granularity, sparsity: \.sparsity)
  }
}
