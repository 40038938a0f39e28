import Glibc
import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import Synchronization
import TestSupport
import Testing

/// Random small dictionaries of every kind against the reference: as many tokens as the environment
/// asks for. GRANULE_DEEP=1 takes ten million; GRANULE_SEED replays.
@Suite("In depth")
struct DeepTests {
  private static func variable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }
  }
  private static let seed =
    variable("GRANULE_SEED").flatMap { UInt64($0) }
    ?? UInt64.random(in: 0...UInt64(UInt32.max))
  private static let tokensWanted = variable("GRANULE_DEEP") == "1" ? 10_000_000 : 20_000
  private static let threads = 2

  @Test("random dictionaries of every kind, on every CPU and path")
  func random() async throws {
    print("GRANULE_SEED=\(Self.seed)")
    let clock = ContinuousClock()
    let start = clock.now
    let counts = try await withThrowingTaskGroup(of: Counts.self) { group in
      for thread in 0..<Self.threads {
        group.addTask { try Self.run(thread: thread, tokens: Self.tokensWanted / Self.threads) }
      }
      return try await group.reduce(into: Counts()) { $0.add($1) }
    }
    #expect(counts.tokens >= Self.tokensWanted)
    print(
      """
      \(counts.tokens) tokens of \(counts.dictionaries) dictionaries compared with the reference \
      (\(counts.screened) screened, \(counts.fallbacks) fell back), \(counts.active) active latents, \
      \((clock.now - start).components.seconds) s, GRANULE_SEED=\(Self.seed)
      """)
  }

  private struct Counts: Sendable {
    var tokens = 0
    var dictionaries = 0
    var screened = 0
    var fallbacks = 0
    var active = 0

    mutating func add(_ other: Counts) {
      tokens += other.tokens
      dictionaries += other.dictionaries
      screened += other.screened
      fallbacks += other.fallbacks
      active += other.active
    }
  }

  private static func run(thread: Int, tokens: Int) throws -> Counts {
    var generator = SeededGenerator(seed: seed &+ UInt64(thread) &* 0x9E37_79B9)
    var counts = Counts()
    let workspace = EncodeWorkspace()
    while counts.tokens < tokens {
      let encodeCase = EncodeCase.random(&generator)
      let (dictionary, activations) = encodeCase.make()
      let granularity = Int.random(in: 1...encodeCase.latents, using: &generator)
      let k =
        Bool.random(using: &generator) ? nil : Int.random(in: 1...granularity, using: &generator)
      let path = Int.random(in: 0..<5, using: &generator) == 0 ? EncodePath.exact : .screened
      let margin: Float = [2.5, 2.5, 0, -2].randomElement(using: &generator)!
      let cpu = EncoderCPU.supported.randomElement(using: &generator)!
      let before = workspace.counters
      let codes = try dictionary.encoder(cpu, path, guessMargin: margin).encode(
        activations, granularity: granularity, k: encodeCase.rule == .topk ? k : nil,
        in: workspace)
      let expected = try dictionary.expected(
        activations, granularity: granularity, k: encodeCase.rule == .topk ? k : nil)
      expectEqual(
        codes, expected, "GRANULE_SEED=\(seed): \(encodeCase) \(cpu) G \(granularity) k \(k ?? 0)")
      counts.tokens += encodeCase.tokens
      counts.dictionaries += 1
      counts.screened += workspace.counters.screenedTokens - before.screenedTokens
      counts.fallbacks += workspace.counters.fallbacks - before.fallbacks
      counts.active += codes.indices.count
    }
    return counts
  }
}

extension EncodeCase {
  /// A small case of any kind.
  static func random(_ generator: inout SeededGenerator) -> EncodeCase {
    let latents = Int.random(
      in: 1...[20, 130, 400].randomElement(using: &generator)!, using: &generator)
    return EncodeCase(
      dModel: [1, 2, 7, 15, 16, 17, 24, 33, 40, 48, 63].randomElement(using: &generator)!,
      latents: latents,
      k: Int.random(
        in: 1...max(1, latents / [1, 4, 16].randomElement(using: &generator)!), using: &generator),
      tokens: 500, rule: RuleKind.allCases.randomElement(using: &generator)!,
      weights: WeightKind.allCases.randomElement(using: &generator)!,
      biases: BiasKind.allCases.randomElement(using: &generator)!,
      statistics: StatisticsKind.allCases.randomElement(using: &generator)!,
      normalization: [.none, .none, .layerNorm, .constantNormRescale]
        .randomElement(using: &generator)!,
      subtractsDecoderBias: Bool.random(using: &generator), seed: generator.next())
  }
}
