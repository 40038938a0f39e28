import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("Every encoder equals the plain reference to the bit")
struct ExactnessTests {
  /// Expects every manner's answer to be the reference's.
  func check(_ encodeCase: EncodeCase, granularities: [Int], ks: [Int?] = [nil]) throws {
    let (dictionary, activations) = encodeCase.make()
    let workspace = EncodeWorkspace()
    for manner in EncodeManner.all {
      let encoder = try dictionary.encoder(manner.cpu, manner.path)
      for granularity in granularities where (1...encodeCase.latents).contains(granularity) {
        for k in encodeCase.rule == .topk ? ks : [nil] where (k ?? 1) <= granularity {
          let expected = try dictionary.expected(activations, granularity: granularity, k: k)
          let codes = try encoder.encode(
            activations, granularity: granularity, k: k, in: workspace)
          expectEqual(
            codes, expected,
            "\(encodeCase) \(manner) G \(granularity) k \(k.map(String.init) ?? "default")")
        }
      }
    }
  }

  @Test("whatever weights, biases and tokens look like", arguments: WeightKind.allCases)
  func adversarial(weights: WeightKind) throws {
    var generator = SeededGenerator(seed: 1)
    for rule in RuleKind.allCases {
      for biases in BiasKind.allCases {
        for statistics in StatisticsKind.allCases {
          let latents = Int.random(in: 65...200, using: &generator)
          let encodeCase = EncodeCase(
            dModel: [17, 48, 63].randomElement(using: &generator)!, latents: latents, k: 7,
            tokens: 2 * ActivationKind.allCases.count, rule: rule, weights: weights,
            biases: biases, statistics: statistics,
            normalization: [InputNormalization.none, .layerNorm, .constantNormRescale]
              .randomElement(using: &generator)!,
            subtractsDecoderBias: Bool.random(using: &generator), seed: generator.next())
          try check(encodeCase, granularities: [latents - 1], ks: [nil])
        }
      }
    }
  }

  @Test(
    "whatever the size of activations",
    arguments: [1, 3, 15, 16, 17, 63, 577, 592, 1000, 1021])
  func sizes(dModel: Int) throws {
    for rule in RuleKind.allCases {
      for (number, weights) in [WeightKind.gaussian, .outlierDimension, .anyNorms].enumerated() {
        let encodeCase = EncodeCase(
          dModel: dModel, latents: 130, k: 9, tokens: ActivationKind.allCases.count, rule: rule,
          weights: weights, statistics: StatisticsKind.allCases[number + 1],
          normalization: [.none, .layerNorm, .constantNormRescale][number],
          seed: UInt64(dModel + number))
        try check(encodeCase, granularities: [129])
      }
    }
  }

  @Test("at every kind of granularity and k", arguments: [1, 2, 64, 65, 150, 640])
  func granularities(latents: Int) throws {
    for (number, rule) in RuleKind.allCases.enumerated() {
      for biases in [BiasKind.small, .fewPositive] {
        let encodeCase = EncodeCase(
          dModel: 20, latents: latents, k: max(1, latents / 16), tokens: 11, rule: rule,
          weights: .correlated, biases: biases, seed: UInt64(100 * number + latents))
        let granularities = Set([
          1, 2, 63, 64, 65, latents / 2, latents - 1, latents,
        ])
        try check(
          encodeCase, granularities: granularities.sorted(),
          ks: [nil, 1, 40, max(1, latents / 2), latents - 1, latents].filter { $0 != 0 })
        // k = G at each of them.
        for granularity in granularities where granularity > 0 {
          try check(encodeCase, granularities: [granularity], ks: [granularity])
        }
      }
    }
  }

  @Test("where more survive than lists hold", arguments: RuleKind.allCases)
  func overflowingLists(rule: RuleKind) throws {
    for weights in [WeightKind.nearlyEqualRows, .equalRows, .gaussian] {
      let encodeCase = EncodeCase(
        dModel: 24, latents: 6000, k: 8, tokens: 9, rule: rule, weights: weights, seed: 5)
      try check(encodeCase, granularities: [5999, 6000])
    }
  }

  @Test("where the bounds of some latents say nothing: their weights are too large")
  func unboundedLatents() throws {
    for rule in RuleKind.allCases {
      for many in [false, true] {
        let (plain, activations) = EncodeCase(
          dModel: 32, latents: 300, k: 5, tokens: 9, rule: rule, seed: 21
        ).make()
        for latent in 0..<300 where many || latent % 100 == 17 {
          for i in 0..<32 { plain.encoderWeights.pointer[latent * 32 + i] *= 4e18 }
        }
        let dictionary = SparseAutoencoder(plain.parts)
        let expected = try dictionary.expected(activations, granularity: 300)
        for manner in EncodeManner.all {
          let codes = try dictionary.encoder(manner.cpu, manner.path).encode(
            activations, in: EncodeWorkspace())
          expectEqual(codes, expected, "\(rule) \(manner) many \(many)")
        }
      }
    }
  }

  @Test("with the path and CPU that it chooses itself")
  func ownChoice() throws {
    let workspace = EncodeWorkspace()
    for latents in [10, 900, 3000] {
      let (dictionary, activations) = EncodeCase(
        dModel: 32, latents: latents, k: 4, tokens: 100, seed: 31
      ).make()
      let expected = try dictionary.expected(activations, granularity: latents)
      let encoder = try dictionary.encoder()
      for _ in 0..<3 {
        let codes = try encoder.encode(activations, in: workspace)
        expectEqual(codes, expected, "N \(latents)")
      }
    }
  }
}
