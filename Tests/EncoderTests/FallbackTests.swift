import GranuleDictionary
import GranuleEncoder
import TestSupport
import Testing

@Suite("Guesses that fail are found out")
struct FallbackTests {
  @Test("guesses that are too bold are verified, and the token encoded again")
  func boldGuesses() throws {
    let (dictionary, activations) = EncodeCase(
      dModel: 64, latents: 1500, k: 16, tokens: 50, statistics: .meanAndDeviation, seed: 41
    ).make()
    let expected = try dictionary.expected(activations, granularity: 1400)
    for cpu in EncoderCPU.supported {
      let workspace = EncodeWorkspace()
      let codes = try dictionary.encoder(cpu, .screened, guessMargin: -50).encode(
        activations, granularity: 1400, in: workspace)
      #expect(workspace.counters.fallbacks > 0, "\(cpu)")
      #expect(workspace.counters.tokens == 50, "\(cpu): each token counts once")
      expectEqual(codes, expected, "\(cpu)")
    }
  }

  @Test("guesses may be as bold or as timid as they like", arguments: [-1e30, -5, -1, 0, 10, 1e30])
  func anyMargin(margin: Float) throws {
    for weights in [WeightKind.gaussian, .correlated, .anyNorms] {
      let (dictionary, activations) = EncodeCase(
        dModel: 48, latents: 700, k: 12, tokens: 40, weights: weights, seed: 42
      ).make()
      let expected = try dictionary.expected(activations, granularity: 700)
      for cpu in EncoderCPU.supported {
        let codes = try dictionary.encoder(cpu, .screened, guessMargin: margin).encode(
          activations, in: EncodeWorkspace())
        expectEqual(codes, expected, "\(weights) \(cpu) margin \(margin)")
      }
    }
  }

  @Test("lists that overflow are given up, and the token encoded again")
  func overflowingLists() throws {
    // Scores that differ less than bounds can tell.
    let (dictionary, activations) = EncodeCase(
      dModel: 24, latents: 6000, k: 8, tokens: 20, weights: .nearlyEqualRows, seed: 43
    ).make()
    let expected = try dictionary.expected(activations, granularity: 6000)
    for cpu in EncoderCPU.supported {
      let workspace = EncodeWorkspace()
      let codes = try dictionary.encoder(cpu, .screened).encode(activations, in: workspace)
      #expect(workspace.counters.fallbacks > 0, "\(cpu)")
      expectEqual(codes, expected, "\(cpu)")
    }
  }

  @Test("lists that hold every latent are never given up", arguments: [1, 20, 64, 100, 300, 2000])
  func smallGranularities(latents: Int) throws {
    for rule in [RuleKind.threshold, .relu] {
      let (dictionary, activations) = EncodeCase(
        dModel: 32, latents: latents, k: 1, tokens: 6, rule: rule, biases: .zero, seed: 44
      ).make()
      for cpu in EncoderCPU.supported {
        let workspace = EncodeWorkspace()
        _ = try dictionary.encoder(cpu, .screened).encode(activations, in: workspace)
        #expect(workspace.counters.fallbacks == 0, "\(rule) \(cpu) N \(latents)")
      }
    }
  }
}
