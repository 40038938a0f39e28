import GranuleDictionary
import GranuleEvaluation
import GranuleTensors
import TestSupport
import Testing

@Suite("What a decoder's rows tell")
struct DecoderTests {
  let fixture: EvaluationFixture

  init() throws { fixture = try EvaluationFixture() }

  @Test("the covariance's eigenvalues are NumPy's")
  func eigenvalues() throws {
    let got = try DecoderSpectrum.covarianceEigenvalues(fixture.dictionary())
    expectClose(got, try fixture.values("eigenvalues"), within: 1e-12, "eigenvalues")
  }

  @Test("with fewer latents than dimensions, the other eigenvalues are zero")
  func fewLatents() throws {
    let dictionary = SparseAutoencoder.random(dModel: 9, latents: 4, rule: .relu, seed: 3)
    let values = try DecoderSpectrum.covarianceEigenvalues(dictionary)
    #expect(values.count == 9 && values[2] > 0.01 && values[3] < 1e-15)
    #expect(values.allSatisfy { $0 >= 0 })
  }

  @Test("largest cosines between granularities' blocks are NumPy's")
  func blocks() throws {
    let similarity = try DecoderSimilarity(
      fixture.dictionary(), granularities: EvaluationFixture.granularities)
    #expect(similarity.blocks.map(\.latents) == [0..<8, 8..<24, 24..<96])
    let expected = try fixture.values("block_cosines")
    for (number, block) in similarity.blocks.enumerated() {
      expectClose(
        block.meanMaximumCosines, Array(expected[number * 3...number * 4]), within: 1e-6,
        "block \(number)")
    }
    let last = similarity.blocks[2]
    expectClose(
      last.maximumEarlierCosines.map { Double($0) }, try fixture.values("earlier_cosines"),
      within: 1e-6, "cosines with earlier latents")
    expectClose(
      [0.1, 0.5, 0.9].map(last.earlierCosine), try fixture.values("earlier_quantiles"),
      within: 1e-6, "quantiles")
    expectClose(
      [last.shareAbove(cosine: 0.7)], try fixture.values("earlier_share"), within: 1e-9, "share")
    #expect(similarity.blocks[0].meanMaximumEarlierCosine == nil)
    #expect(similarity.blocks[0].shareAbove(cosine: 0) == nil)
  }

  @Test("blocks of any size compare as a plain loop does, latents beyond the last included")
  func awkwardBlocks() throws {
    for (latents, granularities) in [(1, [1]), (2, [1]), (700, [1, 255, 257, 513]), (600, [])] {
      let dictionary = SparseAutoencoder.random(
        dModel: 6, latents: latents, rule: .relu, seed: 4)
      let rows = (0..<latents).map { latent in
        (0..<6).map { Double(dictionary.decoderWeights.pointer[latent * 6 + $0]) }
      }
      func cosine(_ left: [Double], _ right: [Double]) -> Double {
        func dot(_ a: [Double], _ b: [Double]) -> Double {
          zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
        }
        return dot(left, right) / (dot(left, left) * dot(right, right)).squareRoot()
      }
      let blocks = try DecoderSimilarity(dictionary, granularities: granularities).blocks
      #expect(blocks.last?.latents.upperBound == latents)
      for (number, block) in blocks.enumerated() {
        let expected = (0...number).map { earlier -> Double in
          let maxima = block.latents.map { latent in
            blocks[earlier].latents.filter { $0 != latent }
              .map { cosine(rows[latent], rows[$0]) }.max() ?? .nan
          }
          return maxima.reduce(0, +) / Double(maxima.count)
        }
        for (got, want) in zip(block.meanMaximumCosines, expected) {
          #expect(want.isNaN ? got == nil : abs((got ?? .infinity) - want) < 1e-6)
        }
      }
    }
  }
}
