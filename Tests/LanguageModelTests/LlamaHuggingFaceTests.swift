import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("A Llama in Hugging Face's layout")
struct LlamaHuggingFaceTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  static let weights = LlamaWeights.random(
    blocks: 2, dModel: 12, feedForward: 20, heads: 4, keyValueHeads: 2, headDimension: 6,
    vocabulary: 9, seed: 5)

  static func config(_ changes: [String: JSONValue] = [:]) -> String {
    var members: [(String, JSONValue)] = [
      ("model_type", "llama"), ("hidden_size", 12), ("intermediate_size", 20),
      ("num_hidden_layers", 2), ("num_attention_heads", 4), ("num_key_value_heads", 2),
      ("head_dim", 6), ("max_position_embeddings", 512), ("vocab_size", 9), ("rope_theta", 10_000),
      ("rms_norm_eps", 1e-5), ("tie_word_embeddings", false), ("rope_scaling", .null),
      ("hidden_act", "silu"),
    ]
    members.removeAll { changes[$0.0] != nil }
    members += changes.map { ($0.key, $0.value) }
    return StrictJSON.text(.object(members.map { .init($0.0, $0.1) }))
  }

  /// Rows as that layout has them: the even ones of each head, then the odd ones.
  static func split(_ matrix: FloatStorage) -> FloatStorage {
    let order = [0, 2, 4, 1, 3, 5]
    let values = matrix.array
    return FloatStorage(
      (0..<values.count / 12).flatMap { row in
        let from = row / 6 * 6 + order[row % 6]
        return values[from * 12..<(from + 1) * 12]
      })
  }

  static func entries() -> [SafetensorsWriter.Entry] {
    let model = weights
    var entries: [SafetensorsWriter.Entry] = [
      .init("model.embed_tokens.weight", [9, 12], model.tokenEmbedding),
      .init("model.norm.weight", [12], model.outputNorm),
      .init("lm_head.weight", [9, 12], model.output),
    ]
    for (number, block) in model.blocks.enumerated() {
      let prefix = "model.layers.\(number)."
      entries += [
        .init(prefix + "input_layernorm.weight", [12], block.attentionNorm),
        .init(prefix + "self_attn.q_proj.weight", [24, 12], split(block.query)),
        .init(prefix + "self_attn.k_proj.weight", [12, 12], split(block.key)),
        .init(prefix + "self_attn.v_proj.weight", [12, 12], block.value),
        .init(prefix + "self_attn.o_proj.weight", [12, 24], block.attentionOutput),
        .init(prefix + "post_attention_layernorm.weight", [12], block.feedForwardNorm),
        .init(prefix + "mlp.gate_proj.weight", [20, 12], block.gate),
        .init(prefix + "mlp.up_proj.weight", [20, 12], block.up),
        .init(prefix + "mlp.down_proj.weight", [12, 20], block.down),
      ]
    }
    return entries
  }

  func write(_ config: String) throws {
    try DurableFile.replace("\(folder.path)/config.json", with: config)
  }

  func expectWeights(tied: Bool = false) throws {
    let read = try LlamaWeights(huggingFace: folder.path)
    let model = Self.weights
    #expect(read.tokenEmbedding.array == model.tokenEmbedding.array)
    #expect(read.outputNorm.array == model.outputNorm.array)
    #expect((read.output === read.tokenEmbedding) == tied)
    if !tied { #expect(read.output.array == model.output.array) }
    #expect(read.configuration.headDimension == 6)
    #expect(read.configuration.contextLength == 512)
    for (block, expected) in zip(read.blocks, model.blocks) {
      for (path, name) in [
        (\LlamaBlockWeights.attentionNorm, "attentionNorm"), (\.query, "query"), (\.key, "key"),
        (\.value, "value"), (\.attentionOutput, "attentionOutput"),
        (\.feedForwardNorm, "feedForwardNorm"), (\.gate, "gate"), (\.up, "up"), (\.down, "down"),
      ] {
        #expect(block[keyPath: path].array == expected[keyPath: path].array, "\(name)")
      }
    }
  }

  @Test("is read from one file, rows of queries and keys in our order")
  func single() throws {
    try write(Self.config())
    try SafetensorsWriter.write(Self.entries(), to: "\(folder.path)/model.safetensors")
    try expectWeights()
    try write(Self.config(["tie_word_embeddings": true]))
    try expectWeights(tied: true)
    let parameters: JSONValue = .object([.init("rope_type", "default"), .init("rope_theta", 5e5)])
    try write(Self.config(["rope_parameters": parameters]))
    #expect(try LlamaWeights(huggingFace: folder.path).configuration.ropeTheta == 500_000)
  }

  @Test("is read from several files with an index")
  func sharded() throws {
    try write(Self.config())
    let entries = Self.entries()
    var map: [JSONValue.Member] = []
    for (number, part) in [entries[..<7], entries[7...]].enumerated() {
      let path = "\(folder.path)/part-\(number).safetensors"
      try SafetensorsWriter.write(Array(part), to: path)
      let file = try SafetensorsFile(FileBytes.read(path))
      map += file.tensors.map { .init($0.name, .string("part-\(number).safetensors")) }
    }
    let index = "\(folder.path)/model.safetensors.index.json"
    try DurableFile.replace(
      index, with: StrictJSON.text(.object([.init("weight_map", .object(map))])))
    try expectWeights()

    map[0] = .init(map[0].key, "../part-0.safetensors")
    try DurableFile.replace(
      index, with: StrictJSON.text(.object([.init("weight_map", .object(map))])))
    let error = #expect(throws: FileError.self) {
      try LlamaWeights(huggingFace: folder.path)
    }
    #expect(error?.description.contains("which is not a file of the folder") == true)
  }

  @Test("is refused by name where it is another architecture or lacks something")
  func refusals() throws {
    let path = "\(folder.path)/model.safetensors"
    func expectFault(
      _ text: String, _ changes: [String: JSONValue] = [:],
      entries: [SafetensorsWriter.Entry] = Self.entries()
    ) throws {
      try write(Self.config(changes))
      try SafetensorsWriter.write(entries, to: path)
      let error = #expect(throws: FileError.self) {
        try LlamaWeights(huggingFace: folder.path)
      }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
    }
    try expectFault("model_type is \"gemma\", only \"llama\" is supported", ["model_type": "gemma"])
    try expectFault("hidden_size is null, an integer is needed", ["hidden_size": .null])
    try expectFault("hidden_size is 12.5, an integer is needed", ["hidden_size": 12.5])
    try expectFault("hidden_act is \"gelu\", only \"silu\" is supported", ["hidden_act": "gelu"])
    try expectFault("attention_bias", ["attention_bias": true])
    try expectFault(
      "rope_scaling has rope_type llama3, only default",
      ["rope_scaling": .object([.init("rope_type", "llama3")])])
    try expectFault("num_attention_heads is 0", ["num_attention_heads": 0])
    try expectFault("config.json needs [10, 12]", ["vocab_size": 10])
    try expectFault("model.layers.2.input_layernorm.weight: is missing", ["num_hidden_layers": 3])
    try expectFault("not part of a plain Llama", ["num_hidden_layers": 1])
    try expectFault(
      "lm_head.weight: is missing",
      entries: Self.entries().enumerated()
        .filter { $0.offset != 2 }.map(\.element))
  }
}
