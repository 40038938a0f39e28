import GranuleData
import GranuleDictionary
import GranuleEncoder
import GranuleErrors
import GranuleTensors
import TestSupport
import Testing

@testable import GranuleEvaluation

@Suite("Ordering latents")
struct LatentOrderingTests {
  static let (dModel, latents, tokens) = (10, 70, 400)
  let dataset: ActivationDataset
  let activations: [Float]

  init() throws {
    let folder = try TemporaryFolder()
    var generator = SeededGenerator(seed: 31)
    activations = generator.normals(Self.dModel * Self.tokens).map { $0 * 2 + 1 }
    let path = "\(folder.path)/x.npy"
    try writeNumpy(activations, shape: [Self.tokens, Self.dModel], to: path)
    // Mapped: it stays readable when the folder is gone.
    dataset = try ActivationDataset(paths: [path])
  }

  static let rules: [SelectionRule] = [
    .topk(k: 7), .relu, .threshold((0..<latents).map { 0.3 + 0.01 * Float($0) }),
  ]

  private func dictionary(_ rule: SelectionRule) -> SparseAutoencoder {
    .random(dModel: Self.dModel, latents: Self.latents, rule: rule, seed: 32) {
      $0.activationMean = nil
      // Latents that are never active, and rows of very different lengths.
      $0.encoderBias.pointer[9] = -1000
      $0.encoderBias.pointer[20] = -1000
      for i in 0..<Self.dModel { $0.decoderWeights.pointer[33 * Self.dModel + i] *= 50 }
    }
  }

  /// Active latents of each token by their index before ordering.
  private func codes(_ dictionary: SparseAutoencoder) throws -> [[Int: Float]] {
    let codes = try dictionary.encoded(activations)
    return (0..<Self.tokens).map { token in
      let range = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
      return Dictionary(
        uniqueKeysWithValues: range.map {
          let index = Int(codes.indices[$0])
          return (dictionary.latentOrder?[index] ?? index, codes.values[$0])
        })
    }
  }

  @Test(
    "changes no code at full size but its order, and no reconstruction", arguments: rules,
    LatentOrdering.allCases)
  func unchanged(rule: SelectionRule, ordering: LatentOrdering) throws {
    let original = dictionary(rule)
    let ordered = try ordering.order(original, on: dataset)
    let same = try codes(ordered) == codes(original)
    #expect(same)
    #expect(ordered.latentOrder?.sorted() == Array(0..<Self.latents))
    #expect(ordered.provenance.orderedBy == ordering.rawValue)

    let before = try Evaluation(original, on: dataset, granularities: [Self.latents])
    let after = try Evaluation(ordered, on: dataset, granularities: [Self.latents])
    #expect(abs(after.rows[0].fvu / before.rows[0].fvu - 1) < 1e-5)
    #expect(after.rows[0].l0 == before.rows[0].l0)
    #expect(ordered.activationMean != nil && ordered.activationDeviation != nil)
  }

  @Test("sorts by what a plain float64 loop finds, latents that are never active last")
  func sorted() throws {
    let original = dictionary(.topk(k: 7))
    let codes = try ReferenceEncoder(original).encode(activations, granularity: Self.latents)
    var (squares, counts) = (
      [Double](repeating: 0, count: Self.latents), [Double](repeating: 0, count: Self.latents)
    )
    for (index, value) in zip(codes.indices, codes.values) {
      let row = original.decoderWeights.pointer + Int(index) * Self.dModel
      let norm = (0..<Self.dModel).reduce(0.0) { $0 + Double(row[$1]) * Double(row[$1]) }
      squares[Int(index)] += Double(value) * Double(value) * norm
      counts[Int(index)] += 1
    }
    for (ordering, keys) in [
      (LatentOrdering.meanSquaredActivation, squares), (.frequency, counts),
    ] {
      let order = try #require(try ordering.order(original, on: dataset).latentOrder)
      let sorted = order.map { keys[$0] }
      #expect(zip(sorted, sorted.dropFirst()).allSatisfy { $0 >= $1 * (1 - 1e-6) })
      let dead = keys.indices.filter { keys[$0] == 0 }
      #expect(dead.contains(9) && dead.contains(20) && order.suffix(dead.count) == dead[...])
    }
    let first = try LatentOrdering.meanSquaredActivation.order(original, on: dataset).latentOrder?
      .first
    #expect(first == 33, "the longest row explains most")
  }

  @Test("composes: the map of a dictionary ordered twice leads to the first one")
  func composed() throws {
    let original = dictionary(.threshold((0..<Self.latents).map { 0.01 * Float($0) }))
    let once = try LatentOrdering.frequency.order(original, on: dataset)
    let twice = try LatentOrdering.meanSquaredActivation.order(once, on: dataset)
    let directly = try LatentOrdering.meanSquaredActivation.order(original, on: dataset)
    #expect(twice.latentOrder == directly.latentOrder)
    #expect(once.latentOrder != twice.latentOrder)
    let order = try #require(twice.latentOrder)
    guard case .threshold(let thresholds) = original.selectionRule,
      case .threshold(let ordered) = twice.selectionRule
    else {
      Issue.record("the rule changed")
      return
    }
    for (latent, source) in order.enumerated() {
      #expect(ordered[latent] == thresholds[source])
      #expect(twice.encoderBias.pointer[latent] == original.encoderBias.pointer[source])
      for (matrix, sources) in [
        (twice.encoderWeights, original.encoderWeights),
        (twice.decoderWeights, original.decoderWeights),
      ] {
        let same = (0..<Self.dModel).allSatisfy {
          matrix.pointer[latent * Self.dModel + $0] == sources.pointer[source * Self.dModel + $0]
        }
        #expect(same)
      }
    }
  }

  @Test("calibrates each granularity's k as what full-width codes leave there")
  func calibrated() throws {
    let ordered = try LatentOrdering.frequency.order(
      dictionary(.topk(k: 7)), on: dataset, granularities: [5, 31, 70])
    let codes = try ReferenceEncoder(ordered).encode(activations, granularity: Self.latents)
    let expected = [5, 31, 70].map { granularity in
      Int((Double(codes.indices.count { $0 < granularity }) / Double(Self.tokens)).rounded())
    }
    #expect(ordered.granularities.map(\.k) == expected)
    let evaluation = try Evaluation(ordered, on: dataset, sparsities: [.asTrained])
    for (granularity, row) in zip(ordered.granularities, evaluation.rows) {
      #expect(granularity.latents == row.granularity)
      #expect(granularity.fvu == Float(row.fvu) && granularity.l0 == Float(row.l0))
    }
    // Without a k there is none to calibrate.
    let threshold = try LatentOrdering.frequency.order(dictionary(.relu), on: dataset)
    #expect(threshold.granularities.map(\.latents) == [4, 8, 17, 35, 70])
    #expect(threshold.granularities.allSatisfy { $0.k == 0 && $0.l0 != nil })
    #expect(LatentOrdering.defaultGranularities(latents: 3) == [1, 3])
  }

  @Test("refuses granularities that are not there, and ends where it is told to")
  func refusals() throws {
    let dictionary = dictionary(.relu)
    let error = #expect(throws: TrainingError.self) {
      try LatentOrdering.frequency.order(dictionary, on: dataset, granularities: [71])
    }
    #expect(
      error?.description == "granularity is 71, it must be in 1 … 70, the dictionary's latents")
    #expect(throws: CancellationError.self) {
      try LatentOrdering.frequency.order(dictionary, on: dataset, shouldStop: { true })
    }
  }
}
