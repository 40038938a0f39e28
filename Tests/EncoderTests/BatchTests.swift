import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("How tokens are batched changes no bit")
struct BatchTests {
  @Test("granularities and k mixed in one call answer as each alone", arguments: RuleKind.allCases)
  func mixed(rule: RuleKind) throws {
    let (dictionary, activations) = EncodeCase(
      dModel: 40, latents: 900, k: 20, tokens: 90, rule: rule, seed: 51
    ).make()
    var generator = SeededGenerator(seed: 52)
    // (first token, tokens, granularity, k)
    let wanted = (0..<25).map { number -> (Int, Int, Int, Int?) in
      let tokens = [0, 1, 2, 7, 40].randomElement(using: &generator)!
      let granularity = [1, 63, 64, 65, 300, 448, 899, 900].randomElement(using: &generator)!
      let k = Int.random(in: 1...granularity, using: &generator)
      let first = Int.random(in: 0...90 - tokens, using: &generator)
      return (first, tokens, granularity, rule == .topk && number % 2 == 0 ? k : nil)
    }
    for manner in EncodeManner.all {
      let encoder = try dictionary.encoder(manner.cpu, manner.path)
      let workspace = EncodeWorkspace()
      try activations.withUnsafeBufferPointer { buffer in
        let inputs = wanted.map { first, tokens, granularity, k in
          EncodeInput(
            activations: .init(rebasing: buffer[first * 40..<(first + tokens) * 40]),
            granularity: granularity, k: k)
        }
        let answers = encoder.encode(inputs, in: workspace)
        for (input, answer) in zip(inputs, answers) {
          let expected = try dictionary.expected(
            Array(input.activations), granularity: input.granularity, k: input.k)
          expectEqual(
            try answer.get(), expected,
            "\(rule) \(manner) values \(input.activations.count) G \(input.granularity)")
        }
      }
    }
  }

  @Test("of several inputs a bad one fails alone")
  func oneBadInput() throws {
    let (dictionary, activations) = EncodeCase(
      dModel: 16, latents: 200, k: 6, tokens: 12, seed: 53
    ).make()
    var notFinite = activations
    notFinite[5 * 16 + 3] = .nan
    var overflowing = activations
    overflowing[7 * 16] = 3e38
    let all = activations + notFinite + overflowing + activations
    for manner in EncodeManner.all {
      let encoder = try dictionary.encoder(manner.cpu, manner.path)
      let workspace = EncodeWorkspace()
      try all.withUnsafeBufferPointer { buffer in
        func input(_ part: Int, granularity: Int, k: Int? = nil) -> EncodeInput {
          let count = activations.count
          return EncodeInput(
            activations: .init(rebasing: buffer[part * count..<(part + 1) * count]),
            granularity: granularity, k: k)
        }
        let answers = encoder.encode(
          [
            input(0, granularity: 100), input(1, granularity: 150), input(2, granularity: 200),
            input(3, granularity: 180, k: 3), input(0, granularity: 201),
            input(0, granularity: 10, k: 11),
          ], in: workspace)
        expectEqual(
          try answers[0].get(), try dictionary.expected(activations, granularity: 100), "\(manner)")
        #expect(answers[1] == .failure(.notFinite(token: 5, dimension: 3)))
        #expect(answers[2] == .failure(.overflow(token: 7)))
        expectEqual(
          try answers[3].get(), try dictionary.expected(activations, granularity: 180, k: 3),
          "\(manner)")
        #expect(answers[4] == .failure(.granularity(201, latents: 200)))
        #expect(answers[5] == .failure(.k(11, granularity: 10)))
      }
    }
  }

  @Test("on any number of threads", arguments: [1, 2, 3])
  func pool(threads: Int) throws {
    let workspace = EncodeWorkspace(threads: threads)
    for rule in RuleKind.allCases {
      let (dictionary, activations) = EncodeCase(
        dModel: 128, latents: 4500, k: 30, tokens: 300, rule: rule,
        statistics: .meanAndDeviation, seed: 54
      ).make()
      let encoder = try dictionary.encoder()
      // Twice: what survived decides how the next are encoded.
      for batch in [1, 2, 31, 64, 65, 300, 1, 300] {
        for granularity in [50, 4400] {
          let part = Array(activations.prefix(batch * 128))
          let expected = try encoder.encode(
            part, granularity: granularity, in: EncodeWorkspace())
          let codes = try encoder.encode(part, granularity: granularity, in: workspace)
          expectEqual(codes, expected, "\(rule) batch \(batch) G \(granularity)")
        }
      }
      let few = Array(activations.prefix(20 * 128))
      let codes = try encoder.encode(few, granularity: 4400, in: workspace)
      expectEqual(codes, try dictionary.expected(few, granularity: 4400), "\(rule) reference")
    }
  }

  @Test("lists that overflow on some threads only", arguments: [2, 3])
  func poolOverflowing(threads: Int) throws {
    // 6000 latents whose scores are nearly the same, then such as differ.
    let near = EncodeCase(
      dModel: 32, latents: 12000, k: 8, tokens: 20, weights: .nearlyEqualRows, biases: .zero,
      seed: 55)
    let (dictionary, activations) = near.make()
    let (other, _) = EncodeCase(dModel: 32, latents: 12000, k: 8, tokens: 1, seed: 56).make()
    (dictionary.encoderWeights.pointer + 6000 * 32).update(
      from: other.encoderWeights.pointer, count: 6000 * 32)
    let mixed = SparseAutoencoder(dictionary.parts)
    let expected = try mixed.expected(activations, granularity: 12000)
    let workspace = EncodeWorkspace(threads: threads)
    let encoder = try mixed.encoder()
    for _ in 0..<2 {
      let codes = try encoder.encode(activations, granularity: 12000, in: workspace)
      expectEqual(codes, expected, "threads \(threads)")
    }
  }

  @Test("a bad token is named by its place, however tokens are split", arguments: [1, 2, 3])
  func poolError(threads: Int) throws {
    let (dictionary, made) = EncodeCase(
      dModel: 64, latents: 1000, k: 8, tokens: 200, seed: 57
    ).make()
    var activations = made
    activations[150 * 64 + 7] = .infinity
    let encoder = try dictionary.encoder()
    let workspace = EncodeWorkspace(threads: threads)
    for tokens in [151, 200] {
      #expect(throws: EncodingError.notFinite(token: 150, dimension: 7)) {
        try encoder.encode(
          Array(activations.prefix(tokens * 64)), granularity: 1000, in: workspace)
      }
    }
  }
}
