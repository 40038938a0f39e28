import Foundation
import GranuleData
import GranuleDictionary
import GranuleDistillation
import GranuleErrors
import GranuleFiles
import GranuleObjective
import GranuleLanguageModel
import GranuleRun
import GranuleStep
import GranuleTensors
import TestSupport
import Testing

@Suite("A distillation")
struct DistillationTests {
  let folder: TemporaryFolder
  let model: String

  /// The residual stream of a tiny language model before its block 1.
  init() throws {
    folder = try TemporaryFolder()
    model = "\(folder.path)/model.gguf"
    try Self.write(TinyLlama.gguf(seed: 7), to: model)
    try TinyLlama.text(characters: 9000, seed: 1)
      .write(toFile: "\(folder.path)/text.txt", atomically: false, encoding: .utf8)
    var harvest = HarvestConfiguration(
      model: model, layers: [1], text: ["\(folder.path)/text.txt"], out: path("activations"))
    harvest.context = 24
    _ = try ActivationHarvester(harvest).harvest()
  }

  static func write(_ model: GGUFWriter, to path: String) throws {
    try Data(model.bytes()).write(to: URL(fileURLWithPath: path))
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  func configuration() -> DistillationConfiguration {
    var training = TrainingConfiguration(
      latents: 60, granularities: [10, 24, 60], objective: .batchtopk(k: 6), tokens: 4000,
      batchTokens: 100)
    training.activations.paths = [path("activations/layer-1")]
    training.learningRate = 5e-3
    training.seed = 3
    var configuration = DistillationConfiguration(training: training, model: model)
    configuration.cycles = 3
    configuration.coverage = 0.8
    configuration.attributionTokens = 600
    return configuration
  }

  func dictionary(_ name: String) throws -> SparseAutoencoder {
    try SparseAutoencoder(folder: path(name))
  }

  func encoderRow(_ dictionary: SparseAutoencoder, _ latent: Int) -> [Float] {
    let d = dictionary.dModel
    return Array(dictionary.encoderWeights.values[latent * d..<(latent + 1) * d])
  }

  func thresholds(_ dictionary: SparseAutoencoder) -> [Float] {
    guard case .threshold(let thresholds) = dictionary.selectionRule else { return [] }
    return thresholds
  }

  @Test("carries from cycle to cycle the encoder vectors of what it selected, and nothing else")
  func cycles() throws {
    let distillation = try Distillation(configuration(), folder: path("out"))
    #expect(distillation.layer == 1)
    var reported: [DistillationCycle] = []
    var fractions: [Double] = []
    guard
      case .finished(let core) = try distillation.run(
        onProgress: { fractions.append($0.fraction) }, onCycle: { reported.append($0) })
    else {
      Issue.record("it did not finish")
      return
    }
    #expect(fractions == fractions.sorted() && fractions.last == 1)
    let cycles = distillation.cycles
    #expect(cycles == reported && cycles.map(\.number) == [1, 2, 3])
    #expect(cycles[0].coreLatents == 0 && cycles[0].candidates == 10 && cycles[0].kept == 0)
    for (before, after) in zip(cycles, cycles.dropFirst()) {
      let count = before.selected.count
      #expect(after.coreLatents == count && after.candidates == count + 10)
      let carried = try dictionary("out/cycle-\(before.number)/selected-core")
      let source = try dictionary("out/cycle-\(before.number)/dictionary")
      let next = try dictionary("out/cycle-\(after.number)/dictionary")
      #expect(next.granularities.map(\.latents) == [count, count + 10, count + 24, 60])
      #expect(next.core == carried.core && carried.core?.latents == count)
      for (place, feature) in before.selected.enumerated() {
        #expect(encoderRow(carried, place) == encoderRow(source, feature.latent))
        #expect(encoderRow(next, place) == encoderRow(source, feature.latent))
      }
      let sameDecoder =
        next.decoderWeights.values[..<(8 * count)]
        .elementsEqual(carried.decoderWeights.values[..<(8 * count)])
      #expect(!sameDecoder)
      #expect(after.kept == after.selected.count { $0.latent < count })
      for feature in after.selected {
        // Those of the core keep their numbers, others have new ones.
        let known = before.selected.indices.contains(feature.latent)
        #expect(!known || feature.id == before.selected[feature.latent].id)
        let old = cycles[..<(after.number - 1)].flatMap { $0.selected.map(\.id) }
        #expect(known || !old.contains(feature.id))
      }
    }
    for cycle in cycles {
      let scores = cycle.selected.map(\.attribution)
      #expect(scores == scores.sorted(by: >))
      #expect(cycle.rows.last?.latents == 60 && cycle.attributedTokens > 400)
      #expect(cycle.latentsForCoverage == cycle.latentsForCoverage.sorted())
      let file = try StrictJSON.parse(
        String(contentsOfFile: path("out/cycle-\(cycle.number)/cycle.json"), encoding: .utf8))
      #expect(file["selected"]?.elements?.count == cycle.selected.count)
    }

    // At least two of the three cycles.
    let votes = Dictionary(
      cycles.flatMap { $0.selected.map { ($0.id, 1) } }, uniquingKeysWith: +)
    #expect(core.latents == votes.values.count { $0 >= 2 } && core.latents > 0)
    let found = try #require(core.core)
    #expect(found.cycles == 3 && found.selections == found.selections.sorted(by: >))
    #expect(found.selections.allSatisfy { $0 >= 2 })
    #expect(core.granularities.map(\.latents) == [core.latents])
    #expect(core.granularities[0].fvu != nil)
    let written = try dictionary("out/core")
    #expect(written.core == found)
    // Each row is that of the feature when it was first selected, since encoders are frozen, and its
    // decoder the newest.
    let features = distillation.configuration.rule.features(cycles.map(\.selected))
    #expect(features.count == core.latents)
    for (row, id) in features.enumerated() {
      let first = try #require(cycles.first { $0.selected.contains { $0.id == id } })
      let latent = try #require(first.selected.first { $0.id == id }).latent
      let encoder = try encoderRow(dictionary("out/cycle-\(first.number)/dictionary"), latent)
      #expect(encoderRow(core, row) == encoder)
      var isFound = false
      for number in [3, 2] where !isFound {
        let source = try dictionary("out/cycle-\(number)/dictionary")
        guard let place = (0..<60).first(where: { encoderRow(source, $0) == encoder }) else {
          continue
        }
        let sameDecoder = core.decoderWeights.values[(8 * row)..<(8 * row + 8)]
          .elementsEqual(source.decoderWeights.values[(8 * place)..<(8 * place + 8)])
        #expect(sameDecoder)
        #expect(core.encoderBias.values[row] == source.encoderBias.values[place])
        #expect(thresholds(core)[row] == thresholds(source)[place])
        isFound = true
      }
      #expect(isFound)
    }
    let sameRows = written.encoderWeights.array == core.encoderWeights.array
    #expect(sameRows)
  }

  @Test("that is stopped again and again, amidst training or attribution, ends with the same bits")
  func resume() throws {
    _ = try Distillation(configuration(), folder: path("whole")).run()
    var calls = 0
    var stops = 0
    var distillation = try Distillation(configuration(), folder: path("part"))
    while stops < 100 {
      // At other places each time, of both kinds of work.
      let limit = [40, 7, 25, 13, 20, 1][stops % 6]
      calls = 0
      let outcome = try distillation.run(shouldStop: {
        calls += 1
        return calls > limit
      })
      if case .finished = outcome { break }
      stops += 1
      distillation = try Distillation(resuming: path("part"))
    }
    #expect((5..<100).contains(stops))
    for name in ["core", "cycle-3/dictionary", "cycle-2/selected-core"] {
      for file in DictionaryFiles.readNames {
        let part = try Data(contentsOf: URL(fileURLWithPath: path("part/\(name)/\(file)")))
        let whole = try Data(contentsOf: URL(fileURLWithPath: path("whole/\(name)/\(file)")))
        let isSame = part == whole
        #expect(isSame, "\(name)/\(file)")
      }
    }
    // What is finished stays so.
    let again = try Distillation(resuming: path("part"))
    #expect(again.cycles.count == 3)
    guard case .finished(let core) = try again.run(shouldStop: { true }) else {
      Issue.record("it began anew")
      return
    }
    #expect(try core.core == dictionary("part/core").core)
  }

  @Test("begins with a core that it is given, and goes by the rules that it is given")
  func options() throws {
    _ = try Distillation(configuration(), folder: path("first")).run()
    var second = configuration()
    second.cycles = 2
    second.training.objective = .batchtopk(
      k: 6, core: .init(folder: path("first/core"), trainsEncoders: true))
    second.trainsCoreEncoders = true
    second.training.seed = 8
    second.training.learningRate = 5e-4
    second.aggregation = .meanAbsolute
    second.coreRule = .last
    second.coverage = 1
    let distillation = try Distillation(second, folder: path("second"))
    guard case .finished(let core) = try distillation.run() else {
      Issue.record("it did not finish")
      return
    }
    let given = try dictionary("first/core")
    #expect(distillation.cycles[0].coreLatents == given.latents)
    #expect(Set(distillation.cycles[1].selected.map(\.id)).count == core.latents)
    let trained = try dictionary("second/cycle-1/dictionary")
    #expect(encoderRow(trained, 0) != encoderRow(given, 0))
    // The rows must still be alike: trained from there, not drawn anew.
    let overlap = try EncoderOverlap(
      of: given, in: trained.standalone(granularity: given.latents))
    let chance = try EncoderOverlap.randomDirections(of: given, count: given.latents, seed: 1)
    #expect(overlap.mean > 0.9 && overlap.mean > chance.mean)
  }

  @Test("refuses what does not belong together, before anything is written")
  func refusals() throws {
    try Self.write(TinyLlama.gguf(seed: 8), to: path("other.gguf"))
    try Folder.make(path("wide"))
    try SparseAutoencoder.random(dModel: 9, latents: 4, rule: .relu, seed: 1) {
      $0.core = DistilledCore(attributions: [1], frequencies: [1], selections: [1], cycles: 1)
    }.write(to: path("wide"))
    try Folder.make(path("elsewhere"))
    try SparseAutoencoder.random(dModel: 8, latents: 4, rule: .relu, seed: 1) {
      $0.core = DistilledCore(attributions: [1], frequencies: [1], selections: [1], cycles: 1)
      $0.provenance.hook = "blocks.0.hook_resid_pre"
    }.write(to: path("elsewhere"))
    var generator = SeededGenerator(seed: 1)
    try writeNumpy(generator.normals(800), shape: [100, 8], to: path("x.npy"))
    var harvest = HarvestConfiguration(
      model: model, layers: [1], text: [path("text.txt")], out: path("mlp"))
    harvest.context = 24
    harvest.site = .mlp
    _ = try ActivationHarvester(harvest).harvest()
    harvest = HarvestConfiguration(
      model: model, layers: [1], text: [path("text.txt")], out: path("short"))
    harvest.context = 2
    _ = try ActivationHarvester(harvest).harvest()
    try FileManager.default.createDirectory(
      atPath: path("moved"), withIntermediateDirectories: false)
    try FileManager.default.copyItem(
      atPath: path("activations/layer-1"), toPath: path("moved/layer-0"))
    try FileManager.default.copyItem(
      atPath: path("activations/manifest.json"), toPath: path("moved/manifest.json"))

    let cases: [(String, (inout DistillationConfiguration) -> Void)] = [
      ("coverage is 0.0, it must be above 0 and at most 1", { $0.coverage = 0 }),
      ("coverage is 1.5, it must be above 0 and at most 1", { $0.coverage = 1.5 }),
      (
        "other.gguf: is not the language model of the activations, tiny: its sha256 is",
        { $0.model = path("other.gguf") }
      ),
      (
        "the core has d_model 9, the activations have 8",
        { $0.training.objective = .batchtopk(k: 6, core: .init(folder: path("wide"))) }
      ),
      (
        "the core's hook is blocks.0.hook_resid_pre, the activations' is blocks.1.hook_resid_pre",
        { $0.training.objective = .batchtopk(k: 6, core: .init(folder: path("elsewhere"))) }
      ),
      (
        "is not a layer-L folder of granule harvest",
        { $0.training.activations.paths = [path("x.npy")] }
      ),
      (
        "only the residual stream can be attributed",
        { $0.training.activations.paths = [path("mlp/layer-1")] }
      ),
      (
        "the harvest was not of layer 0, which",
        { $0.training.activations.paths = [path("moved/layer-0")] }
      ),
      (
        "the objective is topk: distillation needs batchtopk",
        { $0.training.objective = .topk(k: 6) }
      ),
      ("sampled granularities", { $0.training.prefixLosses = .drawn(count: 3) }),
      ("cycles is 0", { $0.cycles = 0 }),
      ("core rule is votes:4, it must be of at most 3 cycles", { $0.coreRule = .votes(4) }),
      ("quantile is -0.5", { $0.aggregation = .quantile(-0.5, over: .all) }),
      ("attribution tokens is 2", { $0.attributionTokens = 2 }),
      ("of sequences of 2 tokens", { $0.training.activations.paths = [path("short/layer-1")] }),
      ("text.txt: ", { $0.repository = path("text.txt") }),
      ("nowhere.txt", { $0.text = [path("nowhere.txt")] }),
      (
        "the name to publish as is a/b",
        {
          $0.repository = path("models")
          $0.publishedName = "a/b"
        }
      ),
    ]
    for (fault, change) in cases {
      var configuration = configuration()
      configuration.publishedName = "m"
      change(&configuration)
      let error = #expect(throws: (any Error).self) {
        try Distillation(configuration, folder: path("refused"))
      }
      #expect("\(error.map { "\($0)" } ?? "")".contains(fault), "\(fault)")
      #expect(!FileManager.default.fileExists(atPath: path("refused")))
    }
    _ = try Distillation(configuration(), folder: path("taken"))
    #expect(throws: TrainingError.self) { try Distillation(configuration(), folder: path("taken")) }
  }

  @Test("counts overlap by the largest cosine of encoder vectors, whatever their length")
  func overlap() throws {
    let dictionary = SparseAutoencoder.random(dModel: 16, latents: 40, rule: .relu, seed: 4)
    var parts = dictionary.permuted(Array((0..<40).reversed())).parts
    let longer = FloatStorage(parts.encoderWeights.values.map { 3 * $0 })
    parts.encoderWeights = longer
    let same = try EncoderOverlap(of: dictionary, in: SparseAutoencoder(parts))
    #expect(same.cosines.allSatisfy { abs($0 - 1) < 1e-5 } && same.share(atLeast: 0.99) == 1)
    let other = SparseAutoencoder.random(dModel: 16, latents: 9, rule: .relu, seed: 5)
    let overlap = try EncoderOverlap(of: dictionary, in: other)
    for latent in 0..<40 {
      func row(_ dictionary: SparseAutoencoder, _ latent: Int) -> [Double] {
        encoderRow(dictionary, latent).map(Double.init)
      }
      func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
      let a = row(dictionary, latent)
      let best = (0..<9).map { other -> Double in
        let b = row(SparseAutoencoder.random(dModel: 16, latents: 9, rule: .relu, seed: 5), other)
        return dot(a, b) / (dot(a, a) * dot(b, b)).squareRoot()
      }.max()
      #expect(abs(overlap.cosines[latent] - (best ?? 0)) < 1e-5)
    }
    // A dictionary's own other latents: as those of one without the latent.
    let own = try #require(EncoderOverlap.withinItself(other))
    let others = try EncoderOverlap(
      of: other.standalone(granularity: 1),
      in: other.permuted(Array((0..<9).reversed())).standalone(granularity: 8))
    #expect(own.cosines.count == 9 && own.cosines[0] == others.cosines[0])
    let single = other.standalone(granularity: 1)
    #expect(EncoderOverlap.withinItself(single) == nil)
    // Initial weights of the same seed are none of the random directions.
    let weights = DictionaryWeights(latents: 8, dModel: 16, hasThresholds: false)
    weights.initialize(decoderBias: [Float](repeating: 0, count: 16), seed: 3)
    let initial = SparseAutoencoder(
      SparseAutoencoder.Parts(
        encoderWeights: weights.encoder, encoderBias: weights.encoderBias,
        decoderWeights: weights.decoder, decoderBias: weights.decoderBias, selectionRule: .relu))
    #expect(try EncoderOverlap.randomDirections(of: initial, count: 8, seed: 3).mean < 0.9)
    // All of a pool are itself.
    let all = try EncoderOverlap.randomLatents(of: dictionary, count: 40, from: dictionary, seed: 1)
    #expect(abs(all.mean - 1) < 1e-5)
    let half = try EncoderOverlap.randomLatents(
      of: dictionary, count: 20, from: dictionary, seed: 1)
    #expect(half.share(atLeast: 0.999) == 0.5)
    #expect(throws: TrainingError.self) {
      try EncoderOverlap.randomLatents(of: dictionary, count: 41, from: dictionary, seed: 1)
    }
  }
}

@Suite("The rule for the final core")
struct CoreRuleTests {
  @Test("reads and writes itself")
  func text() {
    for text in ["last", "intersection:3", "votes:12"] { #expect(CoreRule(text)?.text == text) }
    for text in ["", "votes", "votes:", "votes:0", "votes:-1", "last:1", "first", "votes:1:2"] {
      #expect(CoreRule(text) == nil)
    }
    #expect(CoreRule.standard(cycles: 7) == .votes(4))
    #expect(CoreRule.standard(cycles: 5) == .votes(3) && CoreRule.standard(cycles: 6) == .votes(3))
  }

  @Test("keeps what enough cycles selected, the most often selected first, then by attribution")
  func features() {
    // By feature: its attribution when it was selected, cycle by cycle.
    let selected: [[Int: Double]] = [
      [0: 5, 1: 4, 2: 3], [0: 1, 2: 6, 3: 2], [2: 1, 3: 7, 4: 9], [0: 2, 2: 4, 3: 3],
    ]
    let cycles = selected.map { cycle in
      cycle.sorted { $0.value > $1.value }.map {
        DistillationCycle.Feature(id: $0.key, latent: $0.key, attribution: $0.value, frequency: 1)
      }
    }
    #expect(CoreRule.last.features(cycles) == [2, 3, 0])
    #expect(CoreRule.votes(1).features(cycles) == [2, 3, 0, 4, 1])
    #expect(CoreRule.votes(3).features(cycles) == [2, 3, 0])
    #expect(CoreRule.votes(4).features(cycles) == [2])
    #expect(CoreRule.intersection(1).features(cycles) == [2, 3, 0])
    #expect(CoreRule.intersection(2).features(cycles) == [2, 3])
    #expect(CoreRule.intersection(4).features(cycles) == [2])
    #expect(CoreRule.votes(4).features(Array(cycles.dropLast())).isEmpty)
  }
}
