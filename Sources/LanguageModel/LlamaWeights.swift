public import GranuleTensors

/// The weights of one block, float32. Matrices are row-major [out, in]: y = W x.
///
/// The rows of each head of `query` and `key` are in the order that GGUF files use: rotary embedding
/// turns adjacent pairs (2i, 2i + 1) of a head.
public struct LlamaBlockWeights: Sendable {
  /// Scale of RMSNorm before attention: [d_model].
  public let attentionNorm: FloatStorage
  /// [heads · headDimension, d_model]
  public let query: FloatStorage
  /// [keyValueHeads · headDimension, d_model]
  public let key: FloatStorage
  /// [keyValueHeads · headDimension, d_model]
  public let value: FloatStorage
  /// [d_model, heads · headDimension]
  public let attentionOutput: FloatStorage
  /// Scale of RMSNorm before the feed-forward layer: [d_model].
  public let feedForwardNorm: FloatStorage
  /// [feedForward, d_model]; SiLU is applied to what it gives.
  public let gate: FloatStorage
  /// [feedForward, d_model]
  public let up: FloatStorage
  /// [d_model, feedForward]
  public let down: FloatStorage

  /// A block of weights in the shapes stated with each.
  public init(
    attentionNorm: FloatStorage, query: FloatStorage, key: FloatStorage, value: FloatStorage,
    attentionOutput: FloatStorage, feedForwardNorm: FloatStorage, gate: FloatStorage,
    up: FloatStorage, down: FloatStorage
  ) {
    self.attentionNorm = attentionNorm
    self.query = query
    self.key = key
    self.value = value
    self.attentionOutput = attentionOutput
    self.feedForwardNorm = feedForwardNorm
    self.gate = gate
    self.up = up
    self.down = down
  }
}

/// All weights of a Llama-family model, float32.
public final class LlamaWeights: Sendable {
  /// The model's shape.
  public let configuration: LlamaConfiguration
  /// The residual stream before block 0, token by token: [vocabulary, d_model].
  public let tokenEmbedding: FloatStorage
  /// The blocks in order.
  public let blocks: [LlamaBlockWeights]
  /// Scale of RMSNorm before the output head: [d_model].
  public let outputNorm: FloatStorage
  /// The output head, [vocabulary, d_model]; the same object as `tokenEmbedding` if they are tied.
  public let output: FloatStorage

  /// Weights that belong together.
  ///
  /// - Precondition: every storage has as many values as `configuration` says, which itself is one
  ///   that a model can have.
  public init(
    configuration: LlamaConfiguration, tokenEmbedding: FloatStorage, blocks: [LlamaBlockWeights],
    outputNorm: FloatStorage, output: FloatStorage
  ) {
    let shape = configuration
    precondition(shape.fault == nil, shape.fault ?? "")
    let (d, ff) = (shape.dModel, shape.feedForward)
    let (queries, keys) = (
      shape.heads * shape.headDimension, shape.keyValueHeads * shape.headDimension
    )
    precondition(tokenEmbedding.count == shape.vocabulary * d, "token embedding")
    precondition(output.count == shape.vocabulary * d, "output head")
    precondition(outputNorm.count == d, "output norm")
    precondition(blocks.count == shape.blocks, "number of blocks")
    for block in blocks {
      precondition(block.attentionNorm.count == d && block.feedForwardNorm.count == d, "norms")
      precondition(block.query.count == queries * d, "query")
      precondition(block.key.count == keys * d && block.value.count == keys * d, "key, value")
      precondition(block.attentionOutput.count == queries * d, "attention output")
      precondition(block.gate.count == ff * d && block.up.count == ff * d, "gate, up")
      precondition(block.down.count == ff * d, "down")
    }
    self.configuration = configuration
    self.tokenEmbedding = tokenEmbedding
    self.blocks = blocks
    self.outputNorm = outputNorm
    self.output = output
  }
}
