import CGranuleKernels
import Foundation
import GranuleData
import GranuleDictionary
import GranuleErrors
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("A harvest")
struct HarvestTests {
  let folder: TemporaryFolder
  let model: String
  let texts: [String]

  init() throws {
    folder = try TemporaryFolder()
    model = "\(folder.path)/model.gguf"
    try Self.write(TinyLlama.gguf(seed: 7).bytes(), to: model)
    texts = ["\(folder.path)/text/b.txt", "\(folder.path)/text/deep/a.md"]
    try Folder.make("\(folder.path)/text/deep")
    for (number, path) in texts.enumerated() {
      let text = TinyLlama.text(characters: 9000, seed: UInt64(number))
      try Self.write(Array(text.utf8), to: path)
    }
    try Self.write([0xFF, 0xFE], to: "\(folder.path)/text/ignored.bin")
  }

  static func write(_ bytes: [UInt8], to path: String) throws {
    try Data(bytes).write(to: URL(fileURLWithPath: path))
  }

  func configuration(_ out: String) -> HarvestConfiguration {
    var configuration = HarvestConfiguration(
      model: model, layers: [1], text: ["\(folder.path)/text"], out: "\(folder.path)/\(out)")
    configuration.context = 24
    configuration.type = .float32
    configuration.shardBytes = 3000 * TinyLlama.dModel * 4
    return configuration
  }

  struct Harvested: Equatable {
    var activations: [Float] = []
    var tokenIDs: [Int] = []
    /// Length of each sequence.
    var lengths: [Int] = []
    var shards = 0
  }

  func read(_ out: String, layer: Int) throws -> Harvested {
    var result = Harvested()
    let layers = "\(folder.path)/\(out)/layer-\(layer)"
    for name in try Folder.entries(of: layers) where !name.hasPrefix(".") {
      let file = try SafetensorsFile(FileBytes.read("\(layers)/\(name)"))
      let activations = try file.tensor("activations")
      result.activations += try activations.float32().array
      result.tokenIDs += try file.tensor("token_ids").integers()
      let starts = try file.tensor("sequence_starts").integers() + [activations.shape[0]]
      result.lengths += zip(starts, starts.dropFirst()).map { $1 - $0 }
      result.shards += 1
      #expect(file.metadata["layer"] == String(layer))
    }
    return result
  }

  /// What the model itself gives, sequence by sequence.
  func expected(
    _ configuration: HarvestConfiguration, layer: Int
  ) throws -> Harvested {
    let file = try GGUFFile(path: model)
    let tokenizer = try Tokenizer(file)
    let languageModel = LanguageModel(try LlamaWeights(file))
    let site = HookPoint.block(layer, configuration.site)
    var result = Harvested()
    for path in texts {
      let tokens = try tokenizer.encode(FileBytes.read(path).text)
      for start in stride(from: 0, to: tokens.count, by: configuration.context) {
        let sequence = Array(tokens[start..<min(start + configuration.context, tokens.count)])
        let batch = try TokenBatch([sequence], for: languageModel.configuration)
        let values = try #require(languageModel.activations(at: [site], of: batch)[site]).array
        let kept = sequence.indices.filter {
          configuration.keepsFirstPosition || $0 > 0 && sequence[$0] != TinyLlama.endToken
        }
        if kept.isEmpty { continue }
        let d = TinyLlama.dModel
        result.activations += kept.flatMap { values[$0 * d..<($0 + 1) * d] }
        result.tokenIDs += kept.map { Int(sequence[$0]) }
        result.lengths.append(kept.count)
      }
    }
    return result
  }

  func expectSame(_ actual: Harvested, _ expected: Harvested) {
    #expect(actual.tokenIDs == expected.tokenIDs)
    #expect(actual.lengths == expected.lengths)
    #expect(actual.activations.count == expected.activations.count)
    // Sums may be taken in another order in a batch of another size.
    let difference = zip(actual.activations, expected.activations).map { abs($0 - $1) }.max() ?? 0
    #expect(difference < 1e-5)
  }

  @Test(
    "gives what the model computes, without attention sinks unless they are asked for",
    arguments: HookPoint.Site.allCases, [false, true])
  func values(site: HookPoint.Site, keeps: Bool) throws {
    var configuration = configuration("out")
    configuration.site = site
    configuration.layers = [1, 0]
    configuration.keepsFirstPosition = keeps
    let harvester = try ActivationHarvester(configuration)
    #expect(harvester.textFileCount == 2)
    #expect(try harvester.harvest() == .finished)
    for layer in configuration.layers {
      let harvested = try read("out", layer: layer)
      expectSame(harvested, try expected(configuration, layer: layer))
      #expect(harvested.tokenIDs.count == harvester.total)
      #expect(harvested.shards > 3)
      #expect(harvested.tokenIDs.contains(Int(TinyLlama.endToken)) == keeps)
    }
  }

  @Test("that is interrupted goes on where it stopped, to the same activations")
  func resume() throws {
    let whole = try ActivationHarvester(configuration("whole"))
    #expect(try whole.harvest() == .finished)
    var calls = 0
    while true {
      calls += 1
      let harvester = try ActivationHarvester(configuration("parts"))
      let before = harvester.tokens
      if try harvester.harvest(shouldStop: { true }) == .finished { break }
      #expect(harvester.tokens > before && harvester.tokens < harvester.total)
      // What a killed process leaves behind is written over.
      try Self.write([1, 2, 3], to: "\(folder.path)/parts/layer-1/.shard-00001.safetensors.new")
    }
    #expect(calls > 2)
    expectSame(try read("parts", layer: 1), try read("whole", layer: 1))
    let manifest = try StrictJSON.parse(FileBytes.read("\(folder.path)/parts/manifest.json").text)
    #expect(manifest["complete"]?.bool == true)
    #expect(manifest["tokens"]?.integer == whole.total)
    let finished = try ActivationHarvester(configuration("parts"))
    #expect(finished.tokens == finished.total)
    #expect(try finished.harvest(onProgress: { _ in Issue.record("nothing is left") }) == .finished)
  }

  @Test("into a folder that another process harvests into is refused, then finds it done")
  func locked() throws {
    let first = try ActivationHarvester(configuration("out"))
    let second = try ActivationHarvester(configuration("out"))
    var refusals = 0
    let outcome = try first.harvest(onProgress: { _ in
      let error = #expect(throws: FileError.self) { try second.harvest() }
      if error?.kind == .busy { refusals += 1 }
    })
    #expect(outcome == .finished && refusals > 0)
    #expect(try second.harvest(onProgress: { _ in Issue.record("nothing is left") }) == .finished)
    #expect(second.tokens == second.total)
  }

  @Test("writes exactly as many activations as were asked for")
  func tokens() throws {
    var configuration = configuration("out")
    configuration.tokens = 1001
    #expect(try ActivationHarvester(configuration).harvest() == .finished)
    let harvested = try read("out", layer: 1)
    let all = try expected(configuration, layer: 1)
    #expect(harvested.tokenIDs == Array(all.tokenIDs.prefix(1001)))
  }

  @Test("that fails to write a shard keeps those before it, and goes on once it can")
  func writeFailure() throws {
    let obstacle = "\(folder.path)/out/layer-1/.shard-00001.safetensors.new"
    try Folder.make(obstacle)
    let error = #expect(throws: FileError.self) {
      try ActivationHarvester(configuration("out")).harvest()
    }
    #expect(error?.description.contains("shard-00001") == true)
    let first = try read("out", layer: 1)
    #expect(first.shards == 1)
    try FileManager.default.removeItem(atPath: obstacle)
    let harvester = try ActivationHarvester(configuration("out"))
    #expect(harvester.tokens == first.tokenIDs.count)
    #expect(try harvester.harvest() == .finished)
    expectSame(try read("out", layer: 1), try expected(configuration("out"), layer: 1))
  }

  @Test(
    "does not go on with other parameters, other text or a shard missing, and says what differs")
  func mismatch() throws {
    let original = configuration("out")
    #expect(try ActivationHarvester(original).harvest(shouldStop: { true }) == .interrupted)
    func expectFault(_ text: String, _ change: (inout HarvestConfiguration) -> Void = { _ in }) {
      var configuration = original
      change(&configuration)
      let error = #expect(throws: (any Error).self) { try ActivationHarvester(configuration) }
      let description = error.map { "\($0)" } ?? ""
      #expect(description.contains(text), "\(description)")
    }
    expectFault("layers [1], not [0,1]") { $0.layers = [0, 1] }
    expectFault("hook \"resid\", not \"mlp\"") { $0.site = .mlp }
    expectFault("context 24, not 12") { $0.context = 12 }
    expectFault("type \"float32\"") { $0.type = .float16 }
    expectFault("keeps_first_position false") { $0.keepsFirstPosition = true }
    expectFault("layer is 3") { $0.layers = [3] }
    expectFault("layer is 2") {
      $0.layers = [2]; $0.site = .mlp
    }
    expectFault("context is 65") { $0.context = 65 }
    expectFault("2 text files, not 1") { $0.text = [texts[0]] }
    expectFault("/nowhere") { $0.text = ["/nowhere"] }
    let shard = "\(folder.path)/out/layer-1/shard-00000.safetensors"
    let bytes = try Data(contentsOf: URL(fileURLWithPath: shard))
    try FileManager.default.removeItem(atPath: shard)
    expectFault("shard-00000")
    try Self.write(Array(bytes), to: shard)
    try FileManager.default.removeItem(atPath: "\(folder.path)/out/manifest.json")
    expectFault("no manifest")
  }

  @Test("of changed text is refused, naming the file")
  func changedText() throws {
    #expect(
      try ActivationHarvester(configuration("out")).harvest(shouldStop: { true }) == .interrupted)
    try Self.write(Array("abc".utf8), to: texts[1])
    let error = #expect(throws: TrainingError.self) {
      try ActivationHarvester(configuration("out"))
    }
    #expect(error?.description.contains("a.md") == true)
  }

  @Test("is a dataset of its sequences, by its folder or its layer's")
  func dataset() throws {
    var configuration = configuration("out")
    configuration.layers = [0, 1]
    #expect(try ActivationHarvester(configuration).harvest() == .finished)
    let harvested = try read("out", layer: 1)
    let dataset = try ActivationDataset(paths: ["\(configuration.out)/layer-1"])
    #expect(dataset.tokens == harvested.tokenIDs.count)
    #expect(dataset.sequenceCount == harvested.lengths.count)
    #expect(dataset.origin == .init(languageModel: "tiny", hook: "blocks.1.hook_resid_pre"))
    #expect(dataset.allTokens().array == harvested.activations)
    #expect(try dataset.selecting(sequences: 2..<5).tokens == harvested.lengths[2..<5].reduce(0, +))
    let error = #expect(throws: TrainingError.self) {
      try ActivationDataset(paths: [configuration.out])
    }
    #expect(error?.description.contains("layer-0, layer-1") == true)
    try FileManager.default.removeItem(atPath: "\(configuration.out)/layer-0")
    #expect(try ActivationDataset(paths: [configuration.out]).tokens == dataset.tokens)
  }

  @Test("as float16 refuses a value that float16 cannot hold, and says what to do")
  func overflow() throws {
    var writer = TinyLlama.gguf(seed: 7)
    writer.tensors[0] = .init(
      "token_embd.weight", [TinyLlama.vocabulary, TinyLlama.dModel],
      .init(repeating: 65_520, count: TinyLlama.vocabulary * TinyLlama.dModel))
    try Self.write(writer.bytes(), to: model)
    var configuration = configuration("out")
    configuration.layers = [0]
    #expect(try ActivationHarvester(configuration).harvest() == .finished)
    configuration.type = .float16
    configuration.out += "-16"
    let error = #expect(throws: TrainingError.self) {
      try ActivationHarvester(configuration).harvest()
    }
    #expect(error?.description.contains("harvest as float32") == true)
  }

  @Test("as float16 rounds each value to the nearest")
  func halves() {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var generator = SeededGenerator(seed: seed)
    for count in [1, 15, 16, 17, 1000] {
      var values = (0..<count).map { _ in
        generator.normal()
          * Float(sign: .plus, exponent: .random(in: -26...13, using: &generator), significand: 1)
      }
      var halves = [UInt16](repeating: 0, count: count)
      #expect(gk_float16_from_float32(values, &halves, count) == count)
      #expect(halves == values.map { Float16($0).bitPattern }, "seed \(seed)")
      values[count / 2] = [.nan, .infinity, -65_520].randomElement(using: &generator) ?? 0
      #expect(gk_float16_from_float32(values, &halves, count) == count / 2)
    }
  }
}
