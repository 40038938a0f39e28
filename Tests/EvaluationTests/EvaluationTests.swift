import GranuleData
import GranuleDictionary
import GranuleEncoder
import GranuleErrors
import GranuleTensors
import TestSupport
import Testing

@testable import GranuleEvaluation

@Suite("Evaluation")
struct EvaluationTests {
  let fixture: EvaluationFixture
  let folder: TemporaryFolder

  init() throws {
    fixture = try EvaluationFixture()
    folder = try TemporaryFolder()
  }

  private func evaluate(_ granularities: [Int]? = nil, samples: Int = 300) throws -> Evaluation {
    try Evaluation(
      fixture.dictionary(), on: fixture.activations(in: folder), granularities: granularities,
      similaritySamples: samples)
  }

  @Test("finds the FVU, L0, similarity and dead latents that NumPy finds, at both sparsities")
  func rows() throws {
    let evaluation = try evaluate()
    let expected = try fixture.values("rows")
    let rows =
      evaluation.rows.filter { $0.sparsity == .asTrained }
      + evaluation.rows.filter { $0.sparsity == .fixedRatio }
    #expect(rows.count * 7 == expected.count)
    for (number, row) in rows.enumerated() {
      let want = expected[number * 7..<number * 7 + 7].map { $0 }
      #expect([row.granularity, row.k, row.deadLatents] == [0, 1, 6].map { Int(want[$0]) })
      expectClose([row.l0], [want[2]], within: 1e-12, "L0")
      expectClose([row.fvu], [want[3]], within: 1e-5, "FVU")
      expectClose([row.fvuScalarMean], [want[4]], within: 1e-5, "FVU with one mean")
      expectClose([row.similarity], [want[5]], within: 1e-5, "similarity")
    }
    #expect(evaluation.similaritySamples == 300)
    #expect(evaluation.rows(.fixedRatio).map(\.k) == [1, 2, 6])
    #expect(evaluation.rows(.asTrained).map(\.k) == [3, 5, 6])
  }

  @Test("knows the latents' statistics at full width, also where that is not evaluated")
  func statistics() throws {
    for granularities in [nil, [8]] {
      let statistics = try evaluate(granularities, samples: 0).latentStatistics
      expectClose(
        statistics.frequencies, try fixture.values("frequencies"), within: 1e-12, "frequency")
      expectClose(
        statistics.meanSquaredActivations, try fixture.values("mean_squared_activations"),
        within: 1e-5, "E[z²]")
      #expect(statistics.tokens == 300)
    }
    let alone = try LatentStatistics(
      fixture.dictionary(), on: fixture.activations(in: folder))
    #expect(alone.activeTokens == (try evaluate()).latentStatistics.activeTokens)
  }

  @Test("activation mass by index is the plain means of its bins, none across a granularity")
  func mass() throws {
    let statistics = try evaluate(samples: 0).latentStatistics
    let mass = ActivationMass(statistics, granularities: [8, 24], binsPerDecade: 3)
    #expect(mass.bins.first?.latents.lowerBound == 0 && mass.bins.last?.latents.upperBound == 96)
    #expect(
      zip(mass.bins, mass.bins.dropFirst()).allSatisfy {
        $0.latents.upperBound == $1.latents.lowerBound
      })
    #expect(Set(mass.bins.map(\.latents.upperBound)).isSuperset(of: [8, 24]))
    #expect(mass.bins.count < 15)
    let (squares, frequencies) = (
      try fixture.values("mean_squared_activations"), try fixture.values("frequencies")
    )
    for bin in mass.bins {
      let count = Double(bin.latents.count)
      expectClose(
        [bin.meanSquaredActivation, bin.frequency],
        [squares, frequencies].map { $0[bin.latents].reduce(0, +) / count }, within: 1e-5,
        "bin \(bin.latents)")
    }
    let share = squares[..<24].reduce(0, +) / squares.reduce(0, +)
    expectClose(
      [mass.share(ofFirst: 24), mass.share(ofFirst: 96)], [share, 1], within: 1e-6, "share")
  }

  @Test("measures similarity on tokens at even distances, and not where it cannot be")
  func samples() throws {
    let dictionary = try fixture.dictionary()
    let dataset = try fixture.activations(in: folder)
    let part = try Evaluation(
      dictionary, on: dataset, granularities: [24], sparsities: [.asTrained],
      similaritySamples: 100)
    #expect(part.similaritySamples == 100)
    // Every third token, by hand.
    let (dModel, all) = (dictionary.dModel, dataset.allTokens())
    let sample = FloatStorage(
      (0..<100).flatMap { token in (0..<dModel).map { all.pointer[3 * token * dModel + $0] } })
    let codes = try ReferenceEncoder(dictionary).encode(sample.array, granularity: 24, k: 5)
    let reconstructions = FloatStorage(count: sample.count)
    try SparseEncoder(dictionary).decode(codes, into: reconstructions.pointer)
    let expected = Self.correlation(sample.array, reconstructions.array, dModel: dModel)
    expectClose([part.rows[0].similarity], [expected], within: 1e-6, "similarity of the sample")
    for few in [0, 1, 2] {
      let result = try Evaluation(
        dictionary, on: dataset, granularities: [24], sparsities: [.asTrained],
        similaritySamples: few)
      #expect(result.rows[0].similarity == nil)
    }
  }

  /// Similarity the plain way, float64.
  private static func correlation(_ left: [Float], _ right: [Float], dModel: Int) -> Double {
    func distances(_ points: [Float]) -> [Double] {
      let count = points.count / dModel
      return (0..<count).flatMap { i in
        (i + 1..<max(count, i + 1)).map { j in
          (0..<dModel).reduce(0.0) {
            let difference = Double(points[i * dModel + $1]) - Double(points[j * dModel + $1])
            return $0 + difference * difference
          }.squareRoot()
        }
      }
    }
    let (x, y) = (distances(left), distances(right))
    let (meanX, meanY) = (x.reduce(0, +) / Double(x.count), y.reduce(0, +) / Double(y.count))
    let covariance = zip(x, y).reduce(0) { $0 + ($1.0 - meanX) * ($1.1 - meanY) }
    let varianceX = x.reduce(0) { $0 + ($1 - meanX) * ($1 - meanX) }
    let varianceY = y.reduce(0) { $0 + ($1 - meanY) * ($1 - meanY) }
    return covariance / (varianceX * varianceY).squareRoot()
  }

  @Test("representational similarity is that of plain distances, at sizes around its tiles")
  func similarity() throws {
    var generator = SeededGenerator(seed: 11)
    for (count, dModel) in [(3, 1), (4, 7), (127, 3), (128, 5), (129, 33), (300, 2)] {
      // Far from the origin, where distances by products would cancel.
      let points = generator.normals(count * dModel).map { $0 + 1000 }
      let others = points.map { $0 + 0.5 * generator.normal() }
      let expected = Self.correlation(points, others, dModel: dModel)
      let got = RepresentationalSimilarity(FloatStorage(points), dModel: dModel)
        .correlation(with: FloatStorage(others))
      expectClose([got], [expected], within: 1e-9, "\(count) points of \(dModel)")
    }
    let same = FloatStorage([Float](repeating: 2, count: 40))
    #expect(RepresentationalSimilarity(same, dModel: 4).correlation(with: same) == nil)
    let points = FloatStorage(generator.normals(40))
    #expect(RepresentationalSimilarity(points, dModel: 4).correlation(with: points) == 1)
  }

  @Test("correlates metrics over granularities as NumPy does")
  func metricCorrelations() throws {
    let evaluation = try evaluate()
    let correlations = try #require(
      MetricCorrelations(evaluation, nil, sparsity: .asTrained))
    #expect(correlations.metrics == ["fvu", "fvu_scalar_mean", "l0", "rsa"])
    #expect(correlations.granularities == 3)
    expectClose(
      correlations.values.flatMap { $0 }, try fixture.values("metric_correlations"), within: 1e-4,
      "correlations")
    #expect(MetricCorrelations(try evaluate([8, 24]), nil, sparsity: .asTrained) == nil)
  }

  @Test("ends where it is told to, and refuses what does not fit")
  func refusals() throws {
    let dictionary = try fixture.dictionary()
    let dataset = try fixture.activations(in: folder)
    #expect(throws: CancellationError.self) {
      try Evaluation(dictionary, on: dataset, shouldStop: { true })
    }
    #expect(throws: CancellationError.self) {
      try DecoderSimilarity(dictionary, granularities: [8], shouldStop: { true })
    }
    let other = SparseAutoencoder.random(dModel: 5, latents: 8, rule: .relu, seed: 1)
    for (dictionary, granularities, fault) in [
      (other, [8], "the activations have d_model 12, the dictionary 5"),
      (dictionary, [97], "granularity is 97, it must be in 1 … 96, the dictionary's latents"),
    ] {
      let error = #expect(throws: TrainingError.self) {
        try Evaluation(dictionary, on: dataset, granularities: granularities)
      }
      #expect(error?.description == fault)
    }
  }
}
