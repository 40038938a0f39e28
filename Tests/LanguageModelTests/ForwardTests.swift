import GranuleDictionary
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import GranuleThreads
import TestSupport
import Testing

/// Models on which the fast implementation is compared with the plain one: shapes that are no
/// multiple of any block, one head and several, shared keys and own.
struct SmallModel: CustomTestStringConvertible, Sendable {
  var blocks = 2
  var dModel: Int
  var feedForward: Int
  var heads: Int
  var keyValueHeads: Int
  var headDimension: Int
  var lengths: [Int]

  static let all = [
    SmallModel(
      dModel: 12, feedForward: 20, heads: 1, keyValueHeads: 1, headDimension: 6, lengths: [1, 2, 9]),
    SmallModel(
      dModel: 33, feedForward: 70, heads: 6, keyValueHeads: 2, headDimension: 10,
      lengths: [70, 3, 131, 64]),
    SmallModel(
      blocks: 3, dModel: 24, feedForward: 17, heads: 4, keyValueHeads: 4, headDimension: 16,
      lengths: [65]),
  ]
  var testDescription: String {
    "d \(dModel), heads \(heads)/\(keyValueHeads) of \(headDimension), lengths \(lengths)"
  }

  var weights: LlamaWeights {
    .random(
      blocks: blocks, dModel: dModel, feedForward: feedForward, heads: heads,
      keyValueHeads: keyValueHeads, headDimension: headDimension, vocabulary: 2100, seed: 11)
  }
}

@Suite("Going forwards through a model")
struct ForwardTests {
  // Float32 against double precision through two or three blocks: rounding, nothing else.
  static let tolerance = 2e-6

  @Test("gives what the plain version gives, at every hook", arguments: SmallModel.all)
  func hooks(small: SmallModel) throws {
    let weights = small.weights
    let model = LanguageModel(weights)
    let sequences = weights.randomSequences(small.lengths, seed: 5)
    let batch = try TokenBatch(sequences, for: weights.configuration)
    var sites = Set((0...small.blocks).map { HookPoint.block($0, .residual) })
    for layer in 0..<small.blocks {
      sites.insert(.block(layer, .attention))
      sites.insert(.block(layer, .mlp))
    }
    let captured = model.activations(at: sites, of: batch)
    #expect(captured.count == sites.count)

    let reference = ReferenceLanguageModel(weights)
    var expected: [HookPoint: [Double]] = [:]
    for sequence in sequences {
      var hidden = reference.embeddings(sequence)
      for layer in 0..<small.blocks {
        expected[.block(layer, .residual), default: []] += hidden.flatMap { $0 }
        let result = reference.block(layer, hidden)
        expected[.block(layer, .attention), default: []] += result.attention
          .flatMap { $0 }
        expected[.block(layer, .mlp), default: []] += result.mlp.flatMap { $0 }
        hidden = result.hidden
      }
      expected[.block(small.blocks, .residual), default: []] += hidden.flatMap { $0 }
    }
    for site in sites {
      let storage = try #require(captured[site])
      let error = worstRowError(storage.array, expected[site] ?? [], columns: small.dModel)
      #expect(error < Self.tolerance, "\(site)")
    }
  }

  @Test("gives the plain version's losses, sequence by sequence", arguments: SmallModel.all)
  func losses(small: SmallModel) throws {
    let weights = small.weights
    let model = LanguageModel(weights)
    let sequences = weights.randomSequences(small.lengths, seed: 6)
    let batch = try TokenBatch(sequences, for: weights.configuration)
    let final = model.residual(of: batch, before: small.blocks)
    let loss = model.nextTokenLoss(final: final, of: batch)
    let reference = ReferenceLanguageModel(weights)
    let expected = sequences.flatMap {
      reference.losses($0, reference.embeddings($0), before: 0)
    }
    #expect(loss.crossEntropies.count == batch.rows - batch.sequences)
    for (loss, expected) in zip(loss.crossEntropies, expected) {
      #expect(abs(Double(loss) - expected) < 1e-5)
    }
    let mean = expected.reduce(0, +) / Double(max(1, expected.count))
    #expect(abs(loss.mean - mean) < 1e-6)
  }

  @Test("can stop before a layer and start again from there")
  func stopAndStart() throws {
    let weights = SmallModel.all[1].weights
    let model = LanguageModel(weights)
    let batch = try TokenBatch(
      weights.randomSequences([20, 90], seed: 7), for: weights.configuration)
    let whole = model.residual(of: batch, before: 2)
    let stopped = model.residual(of: batch, before: 1)
    model.advance(stopped, of: batch, from: 1, to: 2)
    #expect(whole.array == stopped.array)
  }

  @Test("computes the same on any number of threads", arguments: [1, 2, 5])
  func threads(count: Int) throws {
    let weights = SmallModel.all[1].weights
    let batch = try TokenBatch(
      weights.randomSequences([20, 90], seed: 8), for: weights.configuration)
    let expected = LanguageModel(weights, parallel: Parallel(threads: 3))
      .residual(of: batch, before: 2).array.map { Double($0) }
    let values = LanguageModel(weights, parallel: Parallel(threads: count))
      .residual(of: batch, before: 2).array
    #expect(relativeError(values, expected) < 1e-6)
  }

  @Test("replaces only the rows it is told to")
  func splicing() throws {
    let weights = SmallModel.all[0].weights
    let model = LanguageModel(weights)
    let batch = try TokenBatch([[5, 6, 0, 7], [0], [9, 8]], for: weights.configuration)
    let rows = batch.replaceableRows(endTokens: [0])
    #expect(rows == [1, 3, 6])
    #expect(batch.replaceableRows(endTokens: []) == [1, 2, 3, 6])
    let hidden = model.residual(of: batch, before: 1)
    let dModel = weights.configuration.dModel
    let ones = [Float](repeating: 1, count: rows.count * dModel)
    let spliced = ones.withUnsafeBufferPointer { model.splicing($0, at: rows, into: hidden) }
    for row in 0..<batch.rows {
      for i in row * dModel..<(row + 1) * dModel {
        #expect(spliced.pointer[i] == (rows.contains(row) ? 1 : hidden.pointer[i]))
      }
    }
  }

  @Test("refuses sequences that the model cannot take, saying which")
  func refusals() {
    let configuration = SmallModel.all[0].weights.configuration
    for (sequences, fault) in [
      ([[1], []], "sequence 1 has 0 tokens, the model takes 1 … 512"),
      ([[Int32](repeating: 1, count: 513)], "sequence 0 has 513 tokens, the model takes 1 … 512"),
      ([[1, 2100]], "sequence 0 has token 2100, the model's are 0 … 2099"),
      ([[-1]], "sequence 0 has token -1, the model's are 0 … 2099"),
    ] {
      let error = #expect(throws: LanguageModelError.self) {
        try TokenBatch(sequences, for: configuration)
      }
      #expect(error?.description == fault)
    }
  }

  @Test("takes no sequences, and sequences that predict nothing")
  func nothing() throws {
    let weights = SmallModel.all[0].weights
    let model = LanguageModel(weights)
    for sequences in [[], [[3]], [[3], [4]]] as [[[Int32]]] {
      let batch = try TokenBatch(sequences, for: weights.configuration)
      let final = model.residual(of: batch, before: 2)
      let loss = model.nextTokenLoss(final: final, of: batch)
      #expect(loss.crossEntropies.isEmpty && loss.mean == 0)
      let gradient = model.lossGradient(of: batch, at: final, before: 2).gradient
      #expect(gradient.array.allSatisfy { $0 == 0 })
    }
  }
}
