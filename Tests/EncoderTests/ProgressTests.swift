import GranuleDictionary
import TestSupport
import Testing
@testable import GranuleEncoder

@Suite("One granularity after another")
struct ProgressTests {
  struct Case: CustomTestStringConvertible, Sendable {
    var rule: SelectionRule
    var granularities: [Int]
    /// Of each granularity; nil takes the dictionary's.
    var ks: [Int?]
    var path: EncodePath?

    var testDescription: String {
      "\(rule.name) \(granularities) \(path.map { "\($0)" } ?? "measured")"
    }
  }

  static let latents = 1500

  static var cases: [Case] {
    var cases: [Case] = []
    for path in [EncodePath?.none, .screened, .exact] {
      for granularities in [[64, 512, 1500], [1, 20, 63, 65, 700, 701, 1499], [128, 1500]] {
        cases.append(
          Case(
            rule: .topk(k: 24), granularities: granularities,
            ks: granularities.map { min($0, max(1, 24 * $0 / latents)) }, path: path))
        // The most active latents are wanted first.
        cases.append(
          Case(
            rule: .topk(k: 24), granularities: granularities,
            ks: granularities.map { min($0, max(1, 40 - $0 / 50)) }, path: path))
        for rule in [
          SelectionRule.relu, .threshold([Float](repeating: 0.6, count: latents)),
        ] {
          cases.append(
            Case(
              rule: rule, granularities: granularities, ks: granularities.map { _ in nil },
              path: path))
        }
      }
    }
    return cases
  }

  @Test("gives what each gives alone, to the bit, for inputs at different stages", arguments: cases)
  func equalsOneShot(_ testCase: Case) throws {
    let dictionary = SparseAutoencoder.random(
      dModel: 48, latents: Self.latents, rule: testCase.rule, seed: 71)
    var generator = SeededGenerator(seed: 72)
    let tokens = 90
    var values = generator.normals(tokens * 48)
    // Tokens whose bounds do not hold, and of which hardly anything is dropped.
    for i in 0..<48 {
      values[5 * 48 + i] *= 1e-30
      values[6 * 48 + i] = 0
      values[7 * 48 + i] *= 1e6
    }
    let workspace = EncodeWorkspace()
    let encoder = try dictionary.encoder(.current, testCase.path)
    let kMax = testCase.ks.reduce(0) { max($0, $1 ?? 0) }
    // Two requests: the second is a stage behind, so that a batch mixes both; the first is cut in
    // other pieces at every stage.
    let progress = [
      EncodeProgress(tokens: 60, kMax: kMax), EncodeProgress(tokens: 30, kMax: kMax),
    ]
    try values.withUnsafeBufferPointer { values in
      func input(_ request: Int, _ range: Range<Int>, _ stage: Int) -> EncodeInput {
        let start = request * 60 + range.lowerBound
        var input = EncodeInput(
          activations: UnsafeBufferPointer(
            rebasing: values[start * 48..<(start + range.count) * 48]),
          granularity: testCase.granularities[stage], k: testCase.ks[stage])
        input.progress = progress[request]
        input.firstToken = range.lowerBound
        return input
      }
      for stage in 0...testCase.granularities.count {
        var inputs: [EncodeInput] = []
        var stages: [Int] = []
        if stage < testCase.granularities.count {
          let cut = 7 + 11 * stage % 50
          inputs = [input(0, 0..<cut, stage), input(0, cut..<60, stage)]
          stages = [stage, stage]
        }
        if stage > 0 {
          inputs.append(input(1, 0..<30, stage - 1))
          stages.append(stage - 1)
        }
        let answers = encoder.encode(inputs, in: workspace)
        for (answer, (input, stage)) in zip(answers, zip(inputs, stages)) {
          let expected = try ReferenceEncoder(dictionary).encode(
            Array(input.activations), granularity: input.granularity, k: input.k)
          let isEqual = try answer.get() == expected
          #expect(
            isEqual, "stage \(stage), \(input.activations.count) values from \(input.firstToken)")
        }
      }
    }
  }

  @Test("keeps no more of a token than it says, and starts anew where that is not enough")
  func bounded() throws {
    let dictionary = SparseAutoencoder.random(dModel: 16, latents: 4000, rule: .relu, seed: 73)
    var generator = SeededGenerator(seed: 74)
    let values = generator.normals(20 * 16)
    let progress = EncodeProgress(tokens: 20, kMax: 0)
    let workspace = EncodeWorkspace()
    let encoder = try dictionary.encoder(.current, .screened)
    try values.withUnsafeBufferPointer { values in
      for granularity in [256, 2000, 4000] {
        var input = EncodeInput(activations: values, granularity: granularity)
        input.progress = progress
        let isEqual =
          try encoder.encode([input], in: workspace)[0].get()
          == ReferenceEncoder(dictionary).encode(Array(values), granularity: granularity)
        #expect(isEqual, "G \(granularity)")
        for number in 0..<20 {
          let token = progress.token(number).pointee
          #expect(token.latents.count == token.bounds.count)
          #expect(8 * token.latents.count <= EncodeProgress.bytesMax(k: 0))
          // About half of 2,000 latents are active: too many to keep.
          #expect((token.panels == 0) == (granularity > 256))
        }
      }
    }
  }
}
