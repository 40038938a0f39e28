import Foundation
import GranuleData
import GranuleDictionary
import GranuleErrors
import GranuleEvaluation
import GranuleFiles
import GranuleObjective
import GranuleRun
import GranuleTensors
import TestSupport
import Testing

@Suite("A training run")
struct TrainerTests {
  let folder: TemporaryFolder
  let activations: String

  /// 12 sequences of 21 positions, position 0 a sink: sparse combinations of 24 directions.
  init() throws {
    folder = try TemporaryFolder()
    activations = "\(folder.path)/activations.npy"
    var generator = SeededGenerator(seed: 31)
    let (sequences, positions, dModel) = (12, 21, 16)
    let directions = (0..<24).map { _ in generator.normals(dModel) }
    var values: [Float] = []
    for _ in 0..<sequences {
      for position in 0..<positions {
        var x = [Float](repeating: position == 0 ? 1e4 : 2, count: dModel)
        for _ in 0..<3 {
          let direction = directions[Int.random(in: 0..<24, using: &generator)]
          let strength = Float.random(in: 1..<3, using: &generator)
          for i in 0..<dModel { x[i] += strength * direction[i] }
        }
        values += x
      }
    }
    try writeNumpy(values, shape: [sequences, positions, dModel], to: activations)
  }

  func configuration(_ kind: TrainingObjective.Kind = .topk) -> TrainingConfiguration {
    let objective: TrainingObjective =
      switch kind {
      case .topk: .topk(k: 5)
      case .batchtopk: .batchtopk(k: 5)
      case .jumprelu:
        .jumprelu(.init(.target(l0: 5), weight: .init(coefficient: 0.3), bandwidth: 1))
      case .relu: .relu(.init(coefficient: 0.02))
      }
    var configuration = TrainingConfiguration(
      latents: 48, granularities: [6, 20, 48], objective: objective, tokens: 4000, batchTokens: 100)
    configuration.activations = ActivationFiles([activations], heldOutSequences: 2)
    if kind == .batchtopk { configuration.prefixLosses = .drawn(count: 3) }
    if kind == .relu { configuration.prefixLosses = .listed(weights: [1, 1, 2]) }
    configuration.learningRate = 3e-3
    configuration.deadAfterTokens = 600
    configuration.checkpointEverySteps = 7
    configuration.languageModel = "toy"
    return configuration
  }

  func run(_ name: String) -> String { "\(folder.path)/\(name)" }

  /// The folder of a core of random vectors.
  func core(
    _ latents: Int, dModel: Int = 16, hook: HookPoint = "", languageModel: String = "",
    seed: UInt64 = 71
  ) throws -> String {
    let path = "\(folder.path)/core-\(latents)-\(dModel)-\(hook)\(languageModel)\(seed)"
    try Folder.make(path)
    try SparseAutoencoder.random(dModel: dModel, latents: latents + 3, rule: .relu, seed: seed) {
      $0.provenance.hook = hook
      $0.provenance.languageModel = languageModel
      $0.core = DistilledCore(
        attributions: (0..<latents).map { 1 / Float($0 + 1) },
        frequencies: [Float](repeating: 0.25, count: latents),
        selections: [Int](repeating: 2, count: latents), cycles: 3)
    }.write(to: path)
    return path
  }

  func weights(_ run: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: "\(run)/dictionary/sae_weights.safetensors"))
  }

  @Test("learns: FVU falls as training goes and as the granularity grows; the dictionary loads")
  func learns() throws {
    var configuration = configuration()
    configuration.tokens = 20_000
    configuration.learningRate = 1e-2
    let trainer = try Trainer(configuration, run: run("a"))
    #expect(try trainer.source.training?.tokens == 200 && trainer.source.heldOut?.tokens == 40)
    var first: Double?
    var last = 0.0
    let outcome = try trainer.train(onProgress: {
      first = first ?? $0.loss
      last = $0.loss
    })
    #expect(last < 0.6 * (first ?? 0))
    guard case .finished(let dictionary) = outcome else {
      Issue.record("the run did not finish")
      return
    }
    let fvu = dictionary.granularities.compactMap(\.fvu)
    #expect(fvu.count == 3 && fvu[0] > fvu[1] && fvu[1] > fvu[2] && fvu[2] < 0.2)
    #expect(dictionary.granularities.map(\.latents) == [6, 20, 48])
    #expect(dictionary.granularities[2].k == 5)
    for latent in 0..<48 {
      let norm = (0..<16).reduce(Float(0)) {
        let value = dictionary.decoderWeights.pointer[latent * 16 + $1]
        return $0 + value * value
      }
      #expect(abs(norm - 1) < 1e-5)
    }
    let read = try SparseAutoencoder(folder: "\(run("a"))/dictionary")
    #expect(read.granularities == dictionary.granularities)
    #expect(read.provenance.languageModel == "toy" && read.provenance.tokens == 20_000)
    let heldOut = try trainer.source.heldOut
    let evaluation = try Evaluation(read, on: #require(heldOut))
    for (row, granularity) in zip(
      evaluation.rows.filter({ $0.sparsity == .asTrained }), read.granularities)
    {
      #expect(abs(Float(row.fvu) - (granularity.fvu ?? 0)) < 1e-6)
    }
  }

  @Test(
    "that is interrupted at any step and resumed ends with the very bits of one that was not",
    arguments: TrainingObjective.Kind.allCases, [1, 7, 20, 39])
  func resume(objective: TrainingObjective.Kind, step: Int) throws {
    let configuration = configuration(objective)
    _ = try Trainer(configuration, run: run("whole")).train()
    let interrupted = try Trainer(configuration, run: run("part"))
    var done = 0
    let outcome = try interrupted.train(
      onProgress: { done = $0.step }, shouldStop: { done == step })
    guard case .interrupted(step) = outcome else {
      Issue.record("the run ended with \(outcome)")
      return
    }
    let resumed = try Trainer(resuming: run("part"))
    #expect(resumed.step == step)
    _ = try resumed.train()
    #expect(try weights(run("part")) == weights(run("whole")))
    let lines = try String(contentsOfFile: "\(run("part"))/metrics.jsonl", encoding: .utf8)
      .split(separator: "\n")
    let steps = try lines.map { try StrictJSON.parse(String($0)) }.filter { $0["loss"] != nil }
      .compactMap { $0["step"]?.integer }
    #expect(steps == Array(1...40))
  }

  @Test(
    "resumed after a crash between checkpoints takes up the last one, and its log has no step twice"
  )
  func crash() throws {
    _ = try Trainer(configuration(), run: run("whole")).train()
    var done = 0
    _ = try Trainer(configuration(), run: run("part")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    // As if it had crashed before the last checkpoint, in the middle of a line.
    try FileManager.default.removeItem(atPath: "\(run("part"))/checkpoints/step-17")
    let log = "\(run("part"))/metrics.jsonl"
    try (String(contentsOfFile: log, encoding: .utf8) + "{\"step\": 9").write(
      toFile: log, atomically: true, encoding: .utf8)
    #expect(try Trainer(resuming: run("part")).step == 14)
    _ = try Trainer(resuming: run("part")).train()
    #expect(try weights(run("part")) == weights(run("whole")))
  }

  @Test(
    "learns by each objective, as sparsely as asked", arguments: TrainingObjective.Kind.allCases)
  func objectives(objective: TrainingObjective.Kind) throws {
    var configuration = configuration(objective)
    configuration.tokens = 30_000
    configuration.learningRate = 1e-2
    let trainer = try Trainer(configuration, run: run("a"))
    guard case .finished(let dictionary) = try trainer.train() else {
      Issue.record("the run did not finish")
      return
    }
    let last = try #require(dictionary.granularities.last)
    #expect(try #require(last.fvu) < 0.3)
    if objective != .relu { #expect(abs(try #require(last.l0) - 5) < 1.5) }
    if case .threshold(let thresholds) = dictionary.selectionRule {
      #expect(objective == .batchtopk || objective == .jumprelu)
      #expect(thresholds.allSatisfy { $0 >= 0 } && thresholds.contains { $0 > 0 })
    } else {
      #expect(objective == .topk || objective == .relu)
    }
    // The last latents add little where so few are active.
    let fvu = dictionary.granularities.compactMap(\.fvu)
    #expect(fvu[0] > fvu[1] && fvu[2] < fvu[1] + 0.03, "\(fvu)")
  }

  @Test(
    "begins with the target L0 active, without a target with a quarter of d_model",
    arguments: [
      (.jumprelu, 5, 5), (.jumprelu, 9, 9), (.jumprelu, nil, 4), (.relu, nil, 4),
    ] as [(TrainingObjective.Kind, Double?, Double)])
  func initialL0(objective: TrainingObjective.Kind, target: Double?, expected: Double) throws {
    var configuration = configuration(objective)
    if case .jumprelu(var settings) = configuration.objective {
      settings.penalty = target.map { .target(l0: $0) } ?? .l0
      configuration.objective = .jumprelu(settings)
    }
    configuration.tokens = configuration.batchTokens
    _ = try Trainer(configuration, run: run("a")).train()
    let lines = try String(contentsOfFile: "\(run("a"))/metrics.jsonl", encoding: .utf8)
    let first = try StrictJSON.parse(String(try #require(lines.split(separator: "\n").first)))
    #expect(abs(try #require(first["l0"]?.number) - expected) < 0.2 * expected)
  }

  @Test("draws granularities uniformly, the same at the same step, all latents among them")
  func sampledGranularities() {
    var configuration = configuration(.batchtopk)
    configuration.prefixLosses = .drawn(count: 4)
    var drawn: [Int] = []
    for step in 0..<2000 {
      let granularities = configuration.objective(atStep: step).granularities
      #expect(granularities == configuration.objective(atStep: step).granularities)
      #expect(granularities.last == 48 && granularities[0] >= 1 && granularities.count <= 4)
      #expect(zip(granularities, granularities.dropFirst()).allSatisfy { $0 < $1 })
      drawn += granularities.dropLast()
    }
    #expect(Set(drawn) == Set(1...47))
    // Of 47 values, less what coincides: the mean of some 5,700 is off by 0.2.
    #expect(abs(Double(drawn.reduce(0, +)) / Double(drawn.count) - 24) < 1)
  }

  @Test("takes up an older checkpoint where a bit of the newest has flipped")
  func flippedBit() throws {
    _ = try Trainer(configuration(), run: run("whole")).train()
    var done = 0
    _ = try Trainer(configuration(), run: run("part")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    let state = URL(
      fileURLWithPath: "\(run("part"))/checkpoints/step-17/state.safetensors")
    var bytes = try Data(contentsOf: state)
    bytes[bytes.count - 1000] ^= 4
    try bytes.write(to: state)
    let resumed = try Trainer(resuming: run("part"))
    #expect(resumed.step == 14)
    #expect(resumed.damagedCheckpoint?.contains("state.sha256") == true)
    _ = try resumed.train()
    #expect(try weights(run("part")) == weights(run("whole")))
  }

  @Test("keeps as many checkpoints as it is told")
  func retention() throws {
    var configuration = configuration()
    configuration.checkpointsKept = 3
    _ = try Trainer(configuration, run: run("a")).train()
    let left = try FileManager.default.contentsOfDirectory(atPath: "\(run("a"))/checkpoints")
    #expect(left.sorted() == ["step-28", "step-35", "step-40"])
  }

  @Test("takes up an older checkpoint where the newest is damaged, and says so")
  func damagedCheckpoint() throws {
    _ = try Trainer(configuration(), run: run("whole")).train()
    var done = 0
    _ = try Trainer(configuration(), run: run("part")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    let state = "\(run("part"))/checkpoints/step-17/state.safetensors"
    try Data(contentsOf: URL(fileURLWithPath: state)).prefix(1000)
      .write(to: URL(fileURLWithPath: state))
    let resumed = try Trainer(resuming: run("part"))
    #expect(resumed.step == 14)
    #expect(resumed.damagedCheckpoint?.contains("step-17") == true)
    _ = try resumed.train()
    #expect(try weights(run("part")) == weights(run("whole")))
  }

  @Test("is refused to a second trainer while the first has it")
  func lock() throws {
    let first = try Trainer(configuration(), run: run("a"))
    let error = #expect(throws: FileError.self) { try Trainer(resuming: run("a")) }
    #expect(error?.kind == .busy)
    withExtendedLifetime(first) {}
  }

  @Test("revives dead latents by the auxiliary loss")
  func deadLatents() throws {
    var configuration = configuration()
    configuration.tokens = 12_000
    configuration.objective = .topk(k: 2)
    configuration.learningRate = 3e-2
    func deadAtEnd(_ name: String) throws -> Int {
      var dead = 0
      _ = try Trainer(configuration, run: run(name)).train(onProgress: { dead = $0.deadLatents })
      return dead
    }
    let revived = try deadAtEnd("with")
    configuration.auxiliary = nil
    let left = try deadAtEnd("without")
    #expect(revived < left, "\(revived) of \(left) are still dead")
  }

  @Test("refuses what it cannot use, and says why")
  func refusals() throws {
    func expectError(_ naming: String, _ body: () throws -> Void) {
      let error = #expect(throws: (any Error).self) { try body() }
      #expect("\(error.map { "\($0)" } ?? "")".contains(naming), "\(String(describing: error))")
    }
    var withCore = self.configuration(.batchtopk)
    withCore.objective = .batchtopk(k: 5, core: .init(folder: try core(9)))
    let unfinished = run("unfinished")
    _ = try Trainer(withCore, run: unfinished).train(shouldStop: { true })
    // Beside the core of nine latents the first granularity of 10 fits no more.
    withCore.granularities = [40, 48]
    withCore.prefixLosses = .listed(weights: [1, 0])
    expectError("granularity weights are 0 for all granularities but those") {
      _ = try Trainer(withCore, run: run("weights"))
    }
    withCore.prefixLosses = .listed(weights: nil)
    withCore.objective = .batchtopk(k: 5, core: .init(folder: unfinished))
    expectError("is a run that has not finished") {
      _ = try Trainer(withCore, run: run("weights"))
    }
    _ = try Trainer(self.configuration(), run: run("a"))
    expectError("--resume") { _ = try Trainer(self.configuration(), run: run("a")) }
    expectError("config.json") { _ = try Trainer(resuming: run("none")) }
    for (change, naming) in [
      ({ $0.objective = .topk(k: 49) }, "k is 49"), ({ $0.tokens = .max }, "tokens is"),
      ({ $0.granularities = [6, 20] }, "ends at latents"),
      ({ $0.granularities = [20, 6, 48] }, "ascends"),
      ({ $0.activations.heldOutSequences = 12 }, "held out"),
      ({ $0.learningRate = .nan }, "learning rate"), ({ $0.batchTokens = 0 }, "batch"),
      ({ $0.activations.sequences = 3..<40 }, "sequences 3 to 39"),
      ({ $0.activations.paths = [] }, "no activations"),
      ({ $0.activations.paths = ["/nowhere.npy"] }, "/nowhere.npy"),
    ] as [((inout TrainingConfiguration) -> Void, String)] {
      var configuration = self.configuration()
      change(&configuration)
      expectError(naming) { _ = try Trainer(configuration, run: run("b")) }
    }
    let bad = "\(folder.path)/bad.npy"
    try writeNumpy([1, 2, .nan, 4] + [Float](repeating: 1, count: 16), shape: [5, 4], to: bad)
    var configuration = self.configuration()
    configuration.activations.paths = [bad]
    configuration.activations.heldOutSequences = 0
    expectError("bad.npy, row 0") { _ = try Trainer(configuration, run: run("c")) }
    let wide = "\(folder.path)/wide.npy"
    try writeNumpy([Float](repeating: 1, count: 4 << 16), shape: [4, 1 << 16], to: wide)
    configuration.activations.paths = [wide]
    configuration.batchTokens = 1 << 20
    expectError("smaller --batch") { _ = try Trainer(configuration, run: run("d")) }
    configuration.activations.paths = [bad, activations]
    expectError("d_model") { _ = try Trainer(configuration, run: run("d")) }
  }

  @Test("with a core keeps its encoder vectors, lists it first, and serves it at threshold 0")
  func withCore() throws {
    var configuration = configuration(.batchtopk)
    configuration.prefixLosses = .listed(weights: nil)
    let core = try core(4)
    configuration.weightDecay = 0.3
    let whole = try SparseAutoencoder(folder: core)
    for trains in [false, true] {
      configuration.objective = .batchtopk(k: 5, core: .init(folder: core, trainsEncoders: trains))
      let trainer = try Trainer(configuration, run: run("core-\(trains)"))
      #expect(trainer.configuration.coreLatents == 4)
      var coreL0 = 0.0
      guard case .finished = try trainer.train(onProgress: { coreL0 = $0.coreL0 }) else {
        Issue.record("the run did not finish")
        return
      }
      #expect(coreL0 > 0)
      let dictionary = try SparseAutoencoder(folder: "\(run("core-\(trains)"))/dictionary")
      let sameEncoders =
        Array(dictionary.encoderWeights.values[..<64]) == Array(whole.encoderWeights.values[..<64])
      #expect(sameEncoders == !trains)
      let sameDecoders =
        Array(dictionary.decoderWeights.values[..<64]) == Array(whole.decoderWeights.values[..<64])
      #expect(!sameDecoders)
      #expect(dictionary.granularities.map(\.latents) == [4, 10, 24, 48])
      #expect(dictionary.core == whole.core)
      guard case .threshold(let thresholds) = dictionary.selectionRule else {
        Issue.record("no thresholds")
        return
      }
      #expect(thresholds[..<4].allSatisfy { $0 == 0 })
      #expect(Set(thresholds[4...]).count == 1 && thresholds[4] > 0)
    }
  }

  @Test("with a core takes nothing of it but its encoder vectors")
  func encoderVectorsAlone() throws {
    var configuration = configuration(.batchtopk)
    let given = try SparseAutoencoder(folder: core(4))
    for (name, scale) in [("as-given", Float(1)), ("other", -2)] {
      var parts = given.parts
      parts.decoderWeights = FloatStorage(
        scale == 1 ? given.decoderWeights.array : given.encoderWeights.array)
      parts.encoderBias = FloatStorage(given.encoderBias.array.map { $0 * scale + scale })
      parts.decoderBias = FloatStorage(given.decoderBias.array.map { $0 * scale + scale })
      let core = "\(folder.path)/\(name)"
      try Folder.make(core)
      try SparseAutoencoder(parts).write(to: core)
      configuration.objective = .batchtopk(k: 5, core: .init(folder: core))
      _ = try Trainer(configuration, run: run(name)).train()
    }
    #expect(try weights(run("as-given")) == weights(run("other")))
  }

  @Test("with a core, interrupted and resumed, ends with the same bits, its folder gone or not")
  func resumeWithCore() throws {
    var configuration = configuration(.batchtopk)
    let core = try core(9)
    configuration.objective = .batchtopk(k: 5, core: .init(folder: core))
    _ = try Trainer(configuration, run: run("whole")).train()
    for step in [3, 20] {
      let interrupted = try Trainer(configuration, run: run("part\(step)"))
      var done = 0
      _ = try interrupted.train(onProgress: { done = $0.step }, shouldStop: { done == step })
    }
    try FileManager.default.removeItem(atPath: core)
    for step in [3, 20] {
      _ = try Trainer(resuming: run("part\(step)")).train()
      let isSame = try weights(run("part\(step)")) == weights(run("whole"))
      #expect(isSame)
    }
  }

  @Test("refuses a core that does not fit, before anything is written")
  func refusesCores() throws {
    var base = configuration(.batchtopk)
    base.hook = "blocks.1.hook_resid_pre"
    let noCore = "\(folder.path)/none"
    try Folder.make(noCore)
    try SparseAutoencoder.random(dModel: 16, latents: 8, rule: .relu, seed: 1).write(to: noCore)
    for (core, fault) in [
      (try core(4, dModel: 17), "the core has d_model 17, the activ"),
      (try core(4, hook: "blocks.2.hook_resid_pre"), "the core's hook is blocks.2"),
      (
        try core(4, languageModel: "other"),
        "the core's language model is other, the activations' is toy"
      ),
      (try core(48), "the core has 48 latents, latents is 48: it must be larger"),
      (noCore, "has no core: name a core that granule distill wrote"),
    ] {
      var configuration = base
      configuration.objective = .batchtopk(k: 5, core: .init(folder: core))
      let error = #expect(throws: TrainingError.self) {
        try Trainer(configuration, run: run("refused"))
      }
      #expect(error?.description.contains(fault) == true, "\(error.map { "\($0)" } ?? "")")
      #expect(!FileManager.default.fileExists(atPath: run("refused")))
    }
  }

  @Test("refuses a core with another objective than BatchTopK, as only a file can say")
  func coreOfTopK() throws {
    var members = try #require(configuration(.topk).json.members)
    members.removeAll { $0.key == "core" }
    members.append(.init("core", .string(try core(4))))
    let error = #expect(throws: TrainingError.self) {
      try TrainingConfiguration(json: .object(members), source: "file")
    }
    #expect(error?.description.contains("needs the objective batchtopk, not topk") == true)
  }
}
