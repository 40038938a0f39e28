import GranuleDictionary
import GranuleDistillation
import GranuleEncoder
import GranuleErrors
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("Attribution")
struct AttributionTests {
  private static let layer = 1
  private static let endToken: Int32 = 3

  @Test(
    "of single latents is what finite differences of the plain model's loss give",
    arguments: [3, 17, 40])
  func finiteDifferences(granularity: Int) throws {
    let weights = LlamaWeights.random(
      blocks: 2, dModel: 12, feedForward: 20, heads: 2, keyValueHeads: 1, headDimension: 6,
      vocabulary: 50, seed: 41)
    let model = LanguageModel(weights)
    // One of a single token, which predicts nothing, and one that an end-of-text token ends.
    let sequences =
      weights.randomSequences([24, 1, 9], seed: 42).map { $0 + [Self.endToken, 7] } + [[5]]
    let thresholds = (0..<40).map { $0 < 5 ? Float(0) : 0.3 }
    for rule in [SelectionRule.threshold(thresholds), .topk(k: 7)] {
      let dictionary = SparseAutoencoder.random(dModel: 12, latents: 40, rule: rule, seed: 43)
      var batches: [LatentAttribution.Batch] = []
      try LatentAttribution.forEachBatch(
        of: dictionary, granularity: granularity, in: model, before: Self.layer,
        sequences: sequences, endTokens: [Self.endToken]
      ) { batches.append($0) }
      let attributed = try #require(batches.first)
      #expect(batches.count == 1)
      let batch = try TokenBatch(sequences, for: weights.configuration)
      let rows = batch.replaceableRows(endTokens: [Self.endToken])
      #expect(attributed.codes.tokens == rows.count)

      let hidden = model.residual(of: batch, before: Self.layer)
      let chosen = rows.flatMap { row in
        (0..<12).map { hidden.pointer[row * 12 + $0] }
      }
      let codes = try ReferenceEncoder(dictionary).encode(chosen, granularity: 40)
        .prefix(granularity: granularity)
      #expect(attributed.codes.indices == codes.indices)
      #expect(codes.indices.contains(0) || granularity > 3)

      var stream = (0..<batch.rows).map { row in
        (0..<12).map { Double(hidden.pointer[row * 12 + $0]) }
      }
      for (token, row) in rows.enumerated() {
        var sum = dictionary.decoderBias.values.map(Double.init)
        for position in Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1]) {
          let latent = Int(codes.indices[position])
          for i in 0..<12 {
            sum[i] +=
              Double(codes.values[position])
              * Double(dictionary.decoderWeights.pointer[latent * 12 + i])
          }
        }
        stream[row] = sum
      }
      let reference = ReferenceLanguageModel(weights)
      let largest = attributed.attributions.map(abs).max() ?? 0
      var checked = 0
      for (token, row) in rows.enumerated() where token % 3 == 0 {
        let sequence = batch.starts.lastIndex { $0 <= row } ?? 0
        let range = batch.starts[sequence]..<batch.starts[sequence + 1]
        for position in Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1]) {
          let latent = Int(codes.indices[position])
          /// The summed loss where this latent's value is larger by a share.
          func loss(_ share: Double) -> Double {
            var shifted = Array(stream[range])
            for i in 0..<12 {
              shifted[row - range.lowerBound][i] +=
                share * Double(codes.values[position])
                * Double(dictionary.decoderWeights.pointer[latent * 12 + i])
            }
            return reference.losses(sequences[sequence], shifted, before: Self.layer).reduce(0, +)
          }
          let numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
          let analytic = Double(attributed.attributions[position])
          #expect(
            abs(numeric - analytic) < 2e-5 * Double(largest),
            "token \(token), latent \(latent): \(analytic), \(numeric) expected")
          checked += 1
        }
      }
      #expect(checked > 5)
    }
  }

  @Test("is PyTorch's, token by token, and so are the scores that it becomes")
  func pyTorch() throws {
    var path = #filePath
    path.removeLast("AttributionTests.swift".count)
    let file = try SafetensorsFile(FileBytes.read(path + "Fixtures/attribution.safetensors"))
    func values(_ name: String) throws -> [Double] {
      let tensor = try file.tensor(name)
      return (0..<tensor.count).map {
        tensor.bytes.loadUnaligned(fromByteOffset: $0 * 8, as: Double.self)
      }
    }
    func weight(_ name: String) throws -> FloatStorage { try file.tensor(name).float32() }
    let blocks = try (0..<2).map { block in
      LlamaBlockWeights(
        attentionNorm: try weight("model.\(block).attention_norm"),
        query: try weight("model.\(block).query"), key: try weight("model.\(block).key"),
        value: try weight("model.\(block).value"),
        attentionOutput: try weight("model.\(block).attention_output"),
        feedForwardNorm: try weight("model.\(block).feed_forward_norm"),
        gate: try weight("model.\(block).gate"), up: try weight("model.\(block).up"),
        down: try weight("model.\(block).down"))
    }
    let model = LanguageModel(
      LlamaWeights(
        configuration: LlamaConfiguration(
          blocks: 2, dModel: 16, feedForward: 24, heads: 4, keyValueHeads: 2, headDimension: 4,
          contextLength: 64, vocabulary: 40, ropeTheta: 10000, rmsEpsilon: 1e-5, name: "torch"),
        tokenEmbedding: try weight("model.token_embedding"), blocks: blocks,
        outputNorm: try weight("model.output_norm"), output: try weight("model.output")))
    let dictionary = SparseAutoencoder(
      SparseAutoencoder.Parts(
        encoderWeights: try weight("sae.W_enc"), encoderBias: try weight("sae.b_enc"),
        decoderWeights: try weight("sae.W_dec"), decoderBias: try weight("sae.b_dec"),
        selectionRule: .threshold(try weight("sae.threshold").array)))
    let tokens = try file.tensor("tokens").integers().map { Int32($0) }
    var sequences: [[Int32]] = []
    var start = 0
    for length in try file.tensor("lengths").integers() {
      sequences.append(Array(tokens[start..<start + length]))
      start += length
    }
    let expected = try values("attributions")
    let granularity = try file.tensor("attributions").shape[1]
    var got = [Double](repeating: 0, count: expected.count)
    try LatentAttribution.forEachBatch(
      of: dictionary, granularity: granularity, in: model, before: Self.layer,
      sequences: sequences, endTokens: []
    ) { batch in
      for token in 0..<batch.codes.tokens {
        for position in Int(batch.codes.rowOffsets[token])..<Int(batch.codes.rowOffsets[token + 1])
        {
          got[token * granularity + Int(batch.codes.indices[position])] =
            Double(batch.attributions[position])
        }
      }
    }
    #expect(relativeDifference(got, expected) <= 1e-5, "attributions")
    for (aggregation, name) in [
      (AttributionAggregation.meanAbsolute, "mean_abs"),
      (.quantile(0.9, over: .active), "quantile_active"),
      (.quantile(0.9, over: .all), "quantile_all"),
    ] {
      let attribution = try LatentAttribution(
        of: dictionary, granularity: granularity, in: model, before: Self.layer,
        sequences: sequences, endTokens: [], aggregation: aggregation)
      #expect(try relativeDifference(attribution.scores, values(name)) <= 1e-5, "\(name)")
      #expect(
        try relativeDifference([attribution.crossEntropy], values("cross_entropy")) <= 1e-6,
        "cross-entropy")
      #expect(attribution.tokens == expected.count / granularity)
      let active = try file.tensor("active").integers()
      #expect(attribution.frequencies == active.map { Double($0) / Double(attribution.tokens) })
    }
  }

  @Test("does not depend on how the text is cut into batches")
  func batches() throws {
    let weights = LlamaWeights.random(
      blocks: 2, dModel: 12, feedForward: 20, heads: 2, keyValueHeads: 1, headDimension: 6,
      vocabulary: 50, seed: 51)
    let model = LanguageModel(weights)
    let dictionary = SparseAutoencoder.random(dModel: 12, latents: 40, rule: .relu, seed: 52)
    // Twelve of 400 tokens do not go through the model together.
    let sequences = weights.randomSequences([Int](repeating: 400, count: 12), seed: 53)
    func scores(_ sequences: [[Int32]]) throws -> [Double] {
      try LatentAttribution(
        of: dictionary, granularity: 10, in: model, before: 1, sequences: sequences,
        endTokens: [], aggregation: .meanAbsolute
      ).scores
    }
    let each = try sequences.map { try scores([$0]) }
    let mean = (0..<10).map { latent in each.reduce(0) { $0 + $1[latent] } / 12 }
    #expect(try relativeDifference(scores(sequences), mean) <= 1e-5, "scores")
  }

  @Test("refuses what does not fit")
  func refusals() throws {
    let weights = LlamaWeights.random(
      blocks: 2, dModel: 12, feedForward: 20, heads: 2, keyValueHeads: 1, headDimension: 6,
      vocabulary: 50, seed: 51)
    let model = LanguageModel(weights)
    let fitting = SparseAutoencoder.random(dModel: 12, latents: 8, rule: .relu, seed: 1)
    let wide = SparseAutoencoder.random(dModel: 13, latents: 8, rule: .relu, seed: 1)
    for (dictionary, granularity, layer, aggregation, sequences, fault) in [
      (
        wide, 4, 1, AttributionAggregation.standard, [[Int32(1), 2]],
        "the dictionary has d_model 13, random has 12"
      ),
      (
        fitting, 9, 1, .standard, [[1, 2]],
        "granularity is 9, it must be in 1 … 8, the dictionary's latents"
      ),
      (fitting, 4, 3, .standard, [[1, 2]], "layer is 3, it must be in 0 … 2, random's blocks"),
      (
        fitting, 4, 1, .quantile(1.5, over: .all), [[1, 2]], "quantile is 1.5, it must be in 0 … 1"
      ),
      (
        fitting, 4, 1, .standard, [[1]],
        "the text has no token whose activation may be replaced"
      ),
    ] {
      let error = #expect(throws: TrainingError.self) {
        try LatentAttribution(
          of: dictionary, granularity: granularity, in: model, before: layer,
          sequences: sequences, endTokens: [], aggregation: aggregation)
      }
      #expect(error?.description == fault)
    }
  }
}

@Suite("The selection of a core")
struct CoreSelectionTests {
  @Test(
    "is the smallest set that reaches the coverage", arguments: [0.01, 0.3, 0.5, 0.9, 0.999, 1])
  func smallest(coverage: Double) throws {
    var generator = SeededGenerator(seed: 61)
    let scores = generator.normals(200).map { $0 > 0 ? Double($0 * $0 * $0) : 0 }
    let selection = try CoreSelection(scores: scores, coverage: coverage)
    let total = scores.reduce(0, +)
    func share(_ latents: some Sequence<Int>) -> Double {
      latents.reduce(0) { $0 + scores[$1] } / total
    }
    #expect(share(selection.latents) >= coverage - 1e-12)
    #expect(share(selection.latents.dropLast()) < coverage)
    #expect(Set(selection.latents).count == selection.latents.count)
    let kept = selection.latents.map { scores[$0] }
    #expect(kept == kept.sorted(by: >) && kept.allSatisfy { $0 > 0 })
    let others = scores.indices.filter { !selection.latents.contains($0) }.map { scores[$0] }
    #expect((others.max() ?? 0) <= (kept.last ?? 0))
    #expect(selection.coverageCurve.count == scores.count { $0 > 0 })
    #expect(selection.coverageCurve.last == 1)
    #expect(abs(selection.coverageCurve[kept.count - 1] - share(selection.latents)) < 1e-12)
  }

  @Test("takes the first of equal latents, and no more than are needed")
  func ties() throws {
    let scores = [1.0, 0, 2, 1, 1, 1]
    #expect(try CoreSelection(scores: scores, coverage: 0.5).latents == [2, 0])
    #expect(try CoreSelection(scores: scores, coverage: 0.51).latents == [2, 0, 3])
    #expect(try CoreSelection(scores: scores, coverage: 1).latents == [2, 0, 3, 4, 5])
  }

  @Test("refuses a coverage that is none, and latents without attribution")
  func refusals() {
    for coverage in [0, -0.5, 1.0001, .nan, .infinity] {
      let error = #expect(throws: TrainingError.self) {
        try CoreSelection(scores: [1, 2], coverage: coverage)
      }
      #expect(error?.description.hasPrefix("coverage is \(coverage), it must be above 0") == true)
    }
    #expect(throws: TrainingError.self) { try CoreSelection(scores: [0, 0], coverage: 0.9) }
  }

  @Test("scores by quantiles between the nearest ranks, over the tokens asked for")
  func quantiles() {
    let values: [Float] = [-4, 1, 3, -2]
    func score(_ quantile: Double, _ positions: AttributionAggregation.Positions) -> Double {
      AttributionAggregation.quantile(quantile, over: positions).score(values, tokens: 11)
    }
    #expect(score(0, .active) == 1 && score(1, .active) == 4)
    #expect(abs(score(0.5, .active) - 2.5) < 1e-12)
    #expect(score(0.5, .all) == 0 && score(1, .all) == 4)
    #expect(abs(score(0.75, .all) - 1.5) < 1e-12)
    #expect(abs(AttributionAggregation.meanAbsolute.score(values, tokens: 11) - 10.0 / 11) < 1e-12)
    #expect(AttributionAggregation.standard.score([], tokens: 11) == 0)
    #expect(score(0.99, .active) > 3.9)
  }
}
