public import GranuleDictionary
public import GranuleTensors
public import GranuleThreads

/// A Llama-family language model that runs in float32.
///
/// The residual stream "before layer L" is what enters block L; before layer `blocks` it is what the
/// last block leaves, ahead of the final norm. Rows are those of the batch: [rows, d_model],
/// row-major.
public final class LanguageModel: Sendable {
  /// The model's weights.
  public let weights: LlamaWeights
  /// Number of threads that it runs on.
  let parallel: Parallel
  /// The model's shape.
  public var configuration: LlamaConfiguration { weights.configuration }

  /// A model that shares `weights`.
  ///
  /// - Parameter parallel: number of threads; results may depend on it in their last bits, because
  ///   it decides how many rows a product of matrices takes at a time.
  public init(_ weights: LlamaWeights, parallel: Parallel = Parallel()) {
    self.weights = weights
    self.parallel = parallel
  }

  /// The residual stream before a layer: [rows, d_model].
  ///
  /// - Parameter layer: 0 … blocks.
  public func residual(of batch: TokenBatch, before layer: Int) -> FloatStorage {
    let hidden = embeddings(of: batch)
    advance(hidden, of: batch, from: 0, to: layer)
    return hidden
  }

  /// Activations at several places in one pass, which ends with the last of them.
  ///
  /// - Returns: [rows, d_model] for each.
  /// - Precondition: every point is at a block of the model.
  public func activations(
    at points: Set<HookPoint>, of batch: TokenBatch
  ) -> [HookPoint: FloatStorage] {
    let hidden = embeddings(of: batch)
    let last = points.map { point in
      guard case .block(let layer, let site) = point else { return 0 }
      return site == .residual ? layer : layer + 1
    }
    return advance(hidden, of: batch, from: 0, to: last.max() ?? 0, capturing: points)
  }

  /// Takes the residual stream before one layer through the blocks to another, in place.
  ///
  /// - Parameters:
  ///   - hidden: [rows, d_model], the stream before layer `from`, whoever made it; receives the
  ///     stream before layer `to`.
  ///   - points: places between the two, to be captured on the way.
  /// - Returns: [rows, d_model] for each of `points`.
  @discardableResult
  public func advance(
    _ hidden: FloatStorage, of batch: TokenBatch, from: Int, to: Int,
    capturing points: Set<HookPoint> = []
  ) -> [HookPoint: FloatStorage] {
    check(hidden, batch)
    precondition(0 <= from && from <= to && to <= configuration.blocks, "layers \(from) to \(to)")
    var captured: [HookPoint: FloatStorage] = [:]
    for point in points {
      guard case .block(let layer, let site) = point, from <= layer,
        layer <= (site == .residual ? to : to - 1)
      else { preconditionFailure("\(point) is not on the way") }
      captured[point] = FloatStorage(count: hidden.count)
    }
    guard batch.rows > 0 else { return captured }
    let pass = BlockPass(weights, batch: batch, parallel)
    for layer in from...to {
      captured[.block(layer, .residual)]?.pointer
        .update(from: hidden.pointer, count: hidden.count)
      guard layer < to else { break }
      pass.forward(
        hidden, block: layer,
        attentionOutput: captured[.block(layer, .attention)],
        mlpOutput: captured[.block(layer, .mlp)])
    }
    return captured
  }

  /// A residual stream with other rows in some places.
  ///
  /// - Parameters:
  ///   - hidden: [rows, d_model]; not changed.
  ///   - rows: which to replace, such as `TokenBatch.replaceableRows(endTokens:)`.
  ///   - replacements: [rows.count, d_model]
  /// - Returns: [rows, d_model]
  public func splicing(
    _ replacements: UnsafeBufferPointer<Float>, at rows: [Int], into hidden: FloatStorage
  ) -> FloatStorage {
    let dModel = configuration.dModel
    precondition(replacements.count == rows.count * dModel)
    let result = FloatStorage(count: hidden.count)
    result.pointer.update(from: hidden.pointer, count: hidden.count)
    guard let start = replacements.baseAddress else { return result }
    for (number, row) in rows.enumerated() {
      precondition((0..<hidden.count / dModel).contains(row))
      (result.pointer + row * dModel).update(from: start + number * dModel, count: dModel)
    }
    return result
  }

  /// The stream before block 0: [rows, d_model].
  private func embeddings(of batch: TokenBatch) -> FloatStorage {
    let dModel = configuration.dModel
    let hidden = FloatStorage(count: batch.rows * dModel)
    for (row, token) in batch.tokens.enumerated() {
      precondition((0..<configuration.vocabulary).contains(Int(token)), "token \(token)")
      (hidden.pointer + row * dModel)
        .update(from: weights.tokenEmbedding.pointer + Int(token) * dModel, count: dModel)
    }
    return hidden
  }

  func check(_ hidden: FloatStorage, _ batch: TokenBatch) {
    precondition(
      hidden.count == batch.rows * configuration.dModel,
      "\(hidden.count) values are not [\(batch.rows), \(configuration.dModel)]")
  }
}
