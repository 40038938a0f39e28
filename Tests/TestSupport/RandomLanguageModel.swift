internal import GranuleBLAS
public import GranuleLanguageModel
internal import GranuleTensors

extension LlamaWeights {
  /// A small model of random weights, its output head apart from its embedding.
  public static func random(
    blocks: Int, dModel: Int, feedForward: Int, heads: Int, keyValueHeads: Int, headDimension: Int,
    vocabulary: Int, seed: UInt64
  ) -> LlamaWeights {
    BLAS.configure()
    var generator = SeededGenerator(seed: seed)
    func matrix(_ outputs: Int, _ inputs: Int) -> FloatStorage {
      FloatStorage(generator.normals(outputs * inputs, scale: 1 / Float(inputs).squareRoot()))
    }
    func norm() -> FloatStorage {
      FloatStorage(generator.normals(dModel, scale: 0.2).map { $0 + 1 })
    }
    let (queries, keys) = (heads * headDimension, keyValueHeads * headDimension)
    return LlamaWeights(
      configuration: LlamaConfiguration(
        blocks: blocks, dModel: dModel, feedForward: feedForward, heads: heads,
        keyValueHeads: keyValueHeads, headDimension: headDimension, contextLength: 512,
        vocabulary: vocabulary, ropeTheta: 10000, rmsEpsilon: 1e-5, name: "random"),
      tokenEmbedding: FloatStorage(generator.normals(vocabulary * dModel)),
      blocks: (0..<blocks).map { _ in
        LlamaBlockWeights(
          attentionNorm: norm(), query: matrix(queries, dModel), key: matrix(keys, dModel),
          value: matrix(keys, dModel), attentionOutput: matrix(dModel, queries),
          feedForwardNorm: norm(), gate: matrix(feedForward, dModel),
          up: matrix(feedForward, dModel), down: matrix(dModel, feedForward))
      }, outputNorm: norm(), output: matrix(vocabulary, dModel))
  }

  /// Sequences of random tokens of the given lengths.
  public func randomSequences(_ lengths: [Int], seed: UInt64) -> [[Int32]] {
    var generator = SeededGenerator(seed: seed)
    let last = Int32(configuration.vocabulary - 1)
    return lengths.map { length in
      (0..<length).map { _ in Int32.random(in: 0...last, using: &generator) }
    }
  }
}
