import GranuleDictionary
import GranuleErrors
import GranuleEvaluation
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("Recaptured loss")
struct RecapturedLossTests {
  private static let layer = 1
  private static let endToken: Int32 = 3
  private let model: LanguageModel
  private let sequences: [[Int32]]
  private var dModel: Int { model.configuration.dModel }

  init() {
    let weights = LlamaWeights.random(
      blocks: 2, dModel: 12, feedForward: 20, heads: 2, keyValueHeads: 1, headDimension: 6,
      vocabulary: 50, seed: 21)
    model = LanguageModel(weights)
    sequences = weights.randomSequences([30, 1, 17, 2], seed: 22).map { $0 + [Self.endToken, 4] }
  }

  /// A dictionary with a latent for the positive and one for the negative part of each dimension, so
  /// that it reconstructs exactly, times `scale`; b_dec is added.
  private func dictionary(scale: Float, bias: [Float]) -> SparseAutoencoder {
    var (encoder, decoder) = ([Float](), [Float]())
    for sign in [Float(1), -1] {
      for latent in 0..<dModel {
        encoder += (0..<dModel).map { $0 == latent ? sign : 0 }
        decoder += (0..<dModel).map { $0 == latent ? scale * sign : 0 }
      }
    }
    var parts = SparseAutoencoder.Parts(
      encoderWeights: FloatStorage(encoder),
      encoderBias: FloatStorage(count: 2 * dModel), decoderWeights: FloatStorage(decoder),
      decoderBias: FloatStorage(bias), selectionRule: .relu)
    parts.subtractsDecoderBias = false
    return SparseAutoencoder(parts)
  }

  private func measure(_ dictionary: SparseAutoencoder) throws -> RecapturedLoss {
    try RecapturedLoss(
      dictionary, in: model, before: Self.layer, sequences: sequences, endTokens: [Self.endToken],
      granularities: [2 * dModel])
  }

  @Test("is the clean loss where a dictionary reconstructs exactly")
  func exact() throws {
    let result = try measure(dictionary(scale: 1, bias: [Float](repeating: 0, count: dModel)))
    let batch = try TokenBatch(sequences, for: model.configuration)
    let final = model.residual(of: batch, before: 2)
    let clean = model.nextTokenLoss(final: final, of: batch)
    #expect(abs(result.clean - clean.mean) < 1e-6)
    #expect(result.predictedTokens == clean.crossEntropies.count)
    #expect(result.replacedTokens == batch.replaceableRows(endTokens: [Self.endToken]).count)
    let row = try #require(result.rows.first)
    #expect(abs(row.crossEntropy - result.clean) < 1e-6)
    #expect(abs(row.ratio - 1) < 1e-6 && abs(row.recovered - 1) < 1e-4)
    #expect(row.fvu < 1e-10 && row.l0 == Double(dModel))
  }

  @Test("is the mean baseline, and nothing recovered, where it only gives the mean")
  func mean() throws {
    let batch = try TokenBatch(sequences, for: model.configuration)
    let stream = model.residual(of: batch, before: Self.layer)
    let rows = batch.replaceableRows(endTokens: [Self.endToken])
    let mean = (0..<dModel).map { column in
      rows.reduce(Float(0)) { $0 + stream.pointer[$1 * dModel + column] } / Float(rows.count)
    }
    let result = try measure(dictionary(scale: 0, bias: mean))
    let row = try #require(result.rows.first)
    #expect(abs(row.crossEntropy - result.meanBaseline) < 1e-5)
    #expect(abs(row.recovered) < 1e-4 && abs(row.fvu - 1) < 1e-5)
    #expect(result.meanBaseline != result.clean)

    let means = rows.flatMap { _ in mean }
    let spliced = means.withUnsafeBufferPointer { model.splicing($0, at: rows, into: stream) }
    model.advance(spliced, of: batch, from: Self.layer, to: 2)
    let expected = model.nextTokenLoss(final: spliced, of: batch).mean
    #expect(abs(result.meanBaseline - expected) < 1e-5)
  }

  @Test("is the zero baseline where it gives nothing")
  func zero() throws {
    let result = try measure(dictionary(scale: 0, bias: [Float](repeating: 0, count: dModel)))
    let row = try #require(result.rows.first)
    #expect(abs(row.crossEntropy - result.zeroBaseline) < 1e-6)
  }

  @Test("refuses a dictionary of another width, a layer that is not there, and text without tokens")
  func refusals() throws {
    let wide = SparseAutoencoder.random(dModel: 13, latents: 4, rule: .relu, seed: 1)
    let fitting = dictionary(scale: 1, bias: [Float](repeating: 0, count: dModel))
    for (dictionary, layer, sequences, fault) in [
      (wide, 1, sequences, "the dictionary has d_model 13, random has 12"),
      (fitting, 3, sequences, "layer is 3, it must be in 0 … 2, random's blocks"),
      (fitting, 1, [[5, 3]], "the text has no token whose activation may be replaced"),
    ] {
      let error = #expect(throws: TrainingError.self) {
        try RecapturedLoss(
          dictionary, in: model, before: layer, sequences: sequences, endTokens: [Self.endToken])
      }
      #expect(error?.description == fault)
    }
  }
}
