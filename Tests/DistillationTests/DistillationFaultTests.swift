import Foundation
import GranuleData
import GranuleDictionary
import GranuleDistillation
import GranuleErrors
import GranuleFiles
import GranuleObjective
import GranuleRun
import GranuleLanguageModel
import GranuleRepository
import GranuleTensors
import TestSupport
import Testing

extension DistillationTests {
  private func copyActivations(to name: String) throws -> [String] {
    try FileManager.default.copyItem(atPath: path("activations"), toPath: path(name))
    return [path("\(name)/layer-1")]
  }

  private func shard(_ name: String) throws -> String {
    let folder = path("\(name)/layer-1")
    let names = try Folder.entries(of: folder).filter { $0.hasSuffix(".safetensors") }
    return "\(folder)/\(try #require(names.last))"
  }

  /// A core with this number of latents, d_model 8.
  private func core(_ name: String, latents: Int, languageModel: String = "") throws -> String {
    try Folder.make(path(name))
    try SparseAutoencoder.random(dModel: 8, latents: latents, rule: .relu, seed: 1) {
      $0.core = DistilledCore(
        attributions: [Float](repeating: 1, count: latents),
        frequencies: [Float](repeating: 1, count: latents),
        selections: [Int](repeating: 1, count: latents), cycles: 1)
      $0.provenance.languageModel = languageModel
    }.write(to: path(name))
    return path(name)
  }

  @Test("refuses what its first training would refuse before there is a folder")
  func refusedBeforeAnyWork() throws {
    let spoilt = try copyActivations(to: "spoilt")
    let file = try shard("spoilt")
    let bytes = try FileBytes.read(file)
    let tensor = try SafetensorsFile(bytes).tensor("activations")
    let start = try #require(bytes.bytes.baseAddress)
    let offset = try #require(tensor.bytes.baseAddress) - start
    var changed = Data(bytes: start, count: bytes.bytes.count)
    // All bits set are no number in any floating-point type.
    for byte in offset..<offset + 4 { changed[byte] = 0xFF }
    try changed.write(to: URL(fileURLWithPath: file))

    let wide = try core("wide-core", latents: 60)
    let renamed = try core("renamed-core", latents: 4, languageModel: "renamed")
    for (fault, change) in [
      ("9999 sequences are to be held out", { $0.training.activations.heldOutSequences = 9999 }),
      ("row 0: the activation is not finite", { $0.training.activations.paths = spoilt }),
      (
        "the core has 60 latents, latents is 60: it must be larger",
        { $0.training.objective = .batchtopk(k: 6, core: .init(folder: wide)) }
      ),
      (
        "the core's language model is renamed, the activations' is",
        { $0.training.objective = .batchtopk(k: 6, core: .init(folder: renamed)) }
      ),
    ] as [(String, (inout DistillationConfiguration) -> Void)] {
      var configuration = configuration()
      change(&configuration)
      let error = #expect(throws: (any Error).self) {
        try Distillation(configuration, folder: path("refused"))
      }
      let message = "\(error.map { "\($0)" } ?? "")"
      #expect(message.contains(fault), "\(message)")
      #expect(!FileManager.default.fileExists(atPath: path("refused")))
    }
    // As for training: what the user says the activations are of goes before what they say.
    var configuration = configuration()
    configuration.training.objective = .batchtopk(k: 6, core: .init(folder: renamed))
    configuration.training.languageModel = "renamed"
    _ = try Distillation(configuration, folder: path("refused"))
  }

  @Test("that was killed after it had published a cycle does not publish it again")
  func publishedOnce() throws {
    var configuration = configuration()
    configuration.cycles = 2
    configuration.training.objective = .batchtopk(k: 2)
    configuration.repository = path("models")
    configuration.publishedName = "m"
    let whole = try Distillation(configuration, folder: path("out"))
    _ = try whole.run()
    let models = ModelRepository(path: path("models"))
    #expect(try models.versions(of: "m") == [1, 2])
    let last = try #require(whole.cycles.last)
    #expect(last.publishedVersion == 2)
    // As few active latents as k has room for are not all that the core has.
    #expect(try #require(last.flooredShare) > 0)
    #expect(try #require(last.trainingSeconds) > 0 && #require(last.attributionSeconds) > 0)

    try FileManager.default.removeItem(atPath: path("out/cycle-2/cycle.json"))
    try FileManager.default.removeItem(atPath: path("out/core"))
    let again = try Distillation(resuming: path("out"))
    #expect(again.cycles.count == 1)
    _ = try again.run()
    #expect(try models.versions(of: "m") == [1, 2])
    // Nor is anything forgotten of what the process before had measured.
    #expect(again.cycles.last == last)

    // What another has published since is not taken for it.
    try FileManager.default.removeItem(atPath: path("out/cycle-2/cycle.json"))
    _ = try models.publish(folder: path("out/cycle-1/dictionary"), name: "m")
    let after = try Distillation(resuming: path("out"))
    _ = try after.run()
    #expect(after.cycles.last?.publishedVersion == 4)
  }

  @Test("that is interrupted amidst training counts all its seconds and all steps above k")
  func totalsOverProcesses() throws {
    var configuration = configuration()
    configuration.cycles = 2
    configuration.training.objective = .batchtopk(k: 2)
    let whole = try Distillation(configuration, folder: path("whole"))
    _ = try whole.run()
    let part = try Distillation(configuration, folder: path("part"))
    var isThere = false
    let outcome = try part.run(
      onProgress: {
        if case .training(let progress) = $0.phase, $0.cycle == 2 { isThere = progress.step == 21 }
      }, shouldStop: { isThere })
    guard case .interrupted(2) = outcome else {
      Issue.record("it ended with \(outcome)")
      return
    }
    let seconds = try #require(
      String(contentsOfFile: path("part/cycle-2/metrics.jsonl"), encoding: .utf8)
        .split(separator: "\n").last.map { try StrictJSON.parse(String($0)) }?["seconds"]?.number)
    let resumed = try Distillation(resuming: path("part"))
    _ = try resumed.run()
    #expect(try #require(resumed.cycles.last?.trainingSeconds) > seconds)
    let share = try #require(whole.cycles.last?.flooredShare)
    #expect(share > 0 && resumed.cycles.last?.flooredShare == share)
    let steps = try String(contentsOfFile: path("part/cycle-2/metrics.jsonl"), encoding: .utf8)
      .split(separator: "\n").map { try StrictJSON.parse(String($0)) }.filter { $0["loss"] != nil }
    let floored = steps.count { $0["core_exceeds_k"] == .bool(true) }
    #expect(share == Double(floored) / 40 && steps.count == 40)
  }

  @Test("goes on with the activations that it was begun on alone")
  func otherActivations() throws {
    var configuration = configuration()
    configuration.training.activations.paths = try copyActivations(to: "growing")
    var steps = 0
    _ = try Distillation(configuration, folder: path("out")).run(shouldStop: {
      steps += 1
      return steps > 5
    })
    let added = path("growing/layer-1/zz.safetensors")
    try FileManager.default.copyItem(atPath: shard("growing"), toPath: added)
    let error = #expect(throws: TrainingError.self) { try Distillation(resuming: path("out")) }
    #expect(
      error?.description.contains("zz.safetensors was added") == true,
      "\(String(describing: error))")
    try FileManager.default.removeItem(atPath: added)
    _ = try Distillation(resuming: path("out"))
  }

  @Test("goes on with the text that it was begun on alone")
  func otherText() throws {
    let text = URL(fileURLWithPath: path("text.txt"))
    let harvested = try Data(contentsOf: text)
    var steps = 0
    let begun = try Distillation(configuration(), folder: path("out"))
    #expect(begun.configuration.text == [text.path])
    _ = try begun.run(shouldStop: {
      steps += 1
      return steps > 5
    })
    func expectRefused(_ fault: String, _ body: () throws -> Void) {
      let error = #expect(throws: TrainingError.self) { try body() }
      #expect(error?.description.contains(fault) == true, "\(String(describing: error))")
    }
    try (harvested + Data("abc".utf8)).write(to: text)
    expectRefused("text.txt has other contents. Restore it") {
      _ = try Distillation(resuming: path("out"))
    }
    expectRefused("has other contents than when it was harvested") {
      _ = try Distillation(configuration(), folder: path("another"))
    }
    #expect(!FileManager.default.fileExists(atPath: path("another")))
    try harvested.write(to: text)
    // What it names as a core may be under way.
    var another = configuration()
    another.training.objective = .batchtopk(k: 6, core: .init(folder: path("out")))
    expectRefused("is a distillation that has not finished") {
      _ = try Distillation(another, folder: path("another"))
    }
    let resumed = try Distillation(resuming: path("out"))
    // It may change once a process is at it, too.
    try (harvested + Data("abc".utf8)).write(to: text)
    expectRefused("text.txt has other contents. Restore it") { _ = try resumed.run() }
    #expect(!FileManager.default.fileExists(atPath: path("out/cycle-1/attribution.safetensors")))
    try harvested.write(to: text)
    _ = try Distillation(resuming: path("out")).run()

    // Files of a folder that is named.
    try Folder.make(path("texts"))
    let (first, second) = (path("texts/a.txt"), path("texts/b.txt"))
    for file in [first, second] { try harvested.write(to: URL(fileURLWithPath: file)) }
    var named = configuration()
    named.text = [path("texts")]
    _ = try Distillation(named, folder: path("named"))
    try FileManager.default.moveItem(atPath: first, toPath: path("texts/c.txt"))
    expectRefused("c.txt was added") { _ = try Distillation(resuming: path("named")) }
    try FileManager.default.removeItem(atPath: path("texts/c.txt"))
    expectRefused("a.txt is gone") { _ = try Distillation(resuming: path("named")) }
  }

  @Test("refuses cycles that do not follow from each other, and damaged ones")
  func damagedCycles() throws {
    var configuration = configuration()
    configuration.cycles = 2
    _ = try Distillation(configuration, folder: path("out")).run()
    let report = path("out/cycle-2/cycle.json")
    let whole = try String(contentsOfFile: report, encoding: .utf8)
    let cycle = try StrictJSON.parse(whole)
    let candidates = try #require(cycle["candidates"]?.integer)
    let core = try #require(cycle["core_latents"]?.integer)
    let feature = try #require(cycle["selected"]?.elements?.first?["feature"]?.integer)
    for (old, new, fault) in [
      ("\"cycle\": 2", "\"cycle\": 3", "does not follow from the cycle before: cycle 3"),
      ("\"candidates\": \(candidates)", "\"candidates\": 1000000000", "1000000000 candidates"),
      ("\"core_latents\": \(core)", "\"core_latents\": \(core - 1)", "a core of \(core - 1)"),
      (
        "\"feature\": \(feature),", "\"feature\": \(Int.max),",
        "feature is \(Int.max), it must be in 0"
      ),
      ("\"feature\": \(feature),", "\"feature\": -1,", "feature is -1, it must be in 0"),
      ("\"cross_entropy\"", "\"other\"", "cross_entropy is missing"),
    ] {
      let damaged = whole.replacingOccurrences(of: old, with: new)
      #expect(damaged != whole)
      try damaged.write(toFile: report, atomically: false, encoding: .utf8)
      let error = #expect(throws: (any Error).self) { try Distillation(resuming: path("out")) }
      #expect(error.map { "\($0)".contains(fault) } == true, "\(String(describing: error))")
    }

    // A core that differs from the selection of cycle 1.
    try FileManager.default.removeItem(atPath: path("out/cycle-2"))
    try FileManager.default.removeItem(atPath: path("out/cycle-1/selected-core"))
    _ = try self.core("out/cycle-1/selected-core", latents: core + 5)
    let resumed = try Distillation(resuming: path("out"))
    let error = #expect(throws: TrainingError.self) { try resumed.run() }
    #expect(
      error?.description.contains("has a core of \(core + 5) latents") == true,
      "\(String(describing: error))")
    #expect(!FileManager.default.fileExists(atPath: path("out/cycle-2/dictionary")))
  }

  @Test("says that all latents were selected, which leaves none for the next cycle")
  func nothingLeft() throws {
    var configuration = configuration()
    configuration.training.latents = 12
    configuration.training.granularities = [12]
    configuration.coverage = 1
    configuration.cycles = 2
    let distillation = try Distillation(configuration, folder: path("out"))
    let error = #expect(throws: TrainingError.self) { try distillation.run() }
    #expect(
      error?.description.contains("cycle 1 selected all 12 latents") == true,
      "\(String(describing: error))")
  }

  @Test("says that the language model's loss is not finite, and records nothing of it")
  func notFinite() throws {
    var spoilt = TinyLlama.gguf(seed: 7)
    // Harvesting before block 1 does not run it.
    let index = try #require(spoilt.tensors.firstIndex { $0.name == "blk.1.ffn_down.weight" })
    spoilt.tensors[index].bytes.replaceSubrange(0..<4, with: [0xFF, 0xFF, 0xFF, 0x7F])
    try Self.write(spoilt, to: path("spoilt.gguf"))
    var harvest = HarvestConfiguration(
      model: path("spoilt.gguf"), layers: [1], text: [path("text.txt")], out: path("spoilt"))
    harvest.context = 24
    _ = try ActivationHarvester(harvest).harvest()
    var configuration = configuration()
    configuration.training.activations.paths = [path("spoilt/layer-1")]
    configuration.model = path("spoilt.gguf")
    let distillation = try Distillation(configuration, folder: path("out"))
    let error = #expect(throws: TrainingError.self) { try distillation.run() }
    #expect(
      error?.description.contains("is not finite: nothing can be attributed") == true,
      "\(String(describing: error))")
    #expect(!FileManager.default.fileExists(atPath: path("out/cycle-1/attribution.safetensors")))
  }

  @Test("takes the activations' folder with a slash at its end")
  func trailingSlash() throws {
    var configuration = configuration()
    configuration.training.activations.paths = [path("activations/layer-1/")]
    #expect(try Distillation(configuration, folder: path("out")).layer == 1)
  }

  @Test("samples long text by stretches at even distances, short text by its sequences")
  func sampledText() throws {
    let tokenizer = try Tokenizer(GGUFFile(path: model))
    try Folder.make(path("texts"))
    var texts: [String] = []
    for number in 0..<3 {
      texts.append(TinyLlama.text(characters: 20_000, seed: UInt64(number)))
      try texts[number].write(
        toFile: path("texts/\(number).txt"), atomically: false, encoding: .utf8)
    }
    func sample(_ wholeBytes: Int, tokens: Int = 600) throws -> [[Int32]] {
      try TextSequences.sample(
        [path("texts")], tokenizer: tokenizer, context: 24, tokens: tokens, wholeBytes: wholeBytes)
    }
    let stretches = try sample(59_999)
    #expect(try stretches == sample(59_999))
    #expect(stretches.count == 25 && stretches.allSatisfy { $0.count == 24 })
    #expect(try sample(59_999, tokens: 599).reduce(0) { $0 + $1.count } == 599)
    for (number, stretch) in stretches.enumerated() {
      let expected = 60_000 * number / 25
      let text = texts[expected / 20_000]
      let found = try #require(text.range(of: tokenizer.text(stretch)))
      let place = text.distance(from: text.startIndex, to: found.lowerBound)
      #expect((0..<200).contains(place - expected % 20_000), "stretch \(number) is at \(place)")
      let beginsLine =
        place == 0 || text[text.index(before: found.lowerBound)] == "\n"
      #expect(beginsLine)
    }
    let whole = try TextSequences.read(
      [path("texts")], tokenizer: tokenizer, context: 24, tokens: .max)
    let sampled = try sample(60_000)
    #expect(sampled.count >= 25 && sampled.reduce(0) { $0 + $1.count } <= 600)
    #expect(sampled.dropLast().allSatisfy { whole.contains($0) } && sampled[0] == whole[0])

    // Without lines a stretch begins with a word.
    try FileManager.default.removeItem(atPath: path("texts"))
    try Folder.make(path("texts"))
    try String(repeating: "abc ab de ", count: 6000).write(
      toFile: path("texts/a.md"), atomically: false, encoding: .utf8)
    for stretch in try sample(1000).dropFirst() {
      #expect(tokenizer.text(stretch).first == " ")
    }
  }
}
