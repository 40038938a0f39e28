internal import GranuleFiles
internal import GranuleLanguageModel
internal import GranuleTensors
internal import TestSupport

extension FuzzTarget {
  /// A GGUF file: its metadata and tensors, and the model and tokenizer in it.
  static let gguf = FuzzTarget(
    name: "gguf",
    seeds: {
      var types = GGUFWriter([
        ("general.alignment", .uint32(64)), ("a", .int8(-1)), ("b", .uint64(.max)),
        ("c", .float64(0.5)), ("d", .array(9, [.array(4, [.uint32(1)]), .array(0, [])])),
        ("e", .array(7, [.bool(true), .bool(false)])), ("f", .array(11, [.int64(-3)])),
        ("g", .strings(["x", ""])),
      ])
      types.alignment = 64
      for (type, elements, bytes) in [(1, 2, 4), (30, 2, 4), (2, 32, 18), (3, 32, 20)]
        + [(8, 32, 34), (12, 256, 144), (14, 256, 210)]
      {
        types.tensors.append(
          .init(
            "t\(type)", [1, elements], type: UInt32(type), bytes: Array(repeating: 60, count: bytes)
          ))
      }
      return [
        Seed(types.bytes(), .containerAccepted), Seed(TinyLlama.gguf(seed: 1).bytes()),
        Seed(TinyLlama.gguf(seed: 1, separateOutput: true).bytes()),
      ]
    },
    run: { bytes in
      let file: GGUFFile
      do throws(FileError) {
        file = try GGUFFile(FileBytes.copy(bytes, named: "fuzz.gguf"))
      } catch { return .refused }
      for array in file.metadata.values.compactMap(\.array) where array.count < 1 << 16 {
        _ = try? array.values()
        _ = try? array.strings()
        _ = try? array.integers()
      }
      // Tensors may share bytes, so that a small file can hold any number of elements.
      var elements = 0
      for tensor in file.tensors {
        elements += min(tensor.count, 1 << 20)
        guard elements < 1 << 20 else { return .containerAccepted }
        let values = tensor.float32()
        try require(values.count == tensor.count, "\(tensor.shape) has \(values.count) elements")
      }
      if let tokenizer = try tokenizer(file) {
        let text = Array("ab a\u{1F600}.\n".utf8) + [0xFF, 0]
        let tokens = text.withUnsafeBytes { tokenizer.encode($0) }
        try require(
          tokens.allSatisfy { (0..<tokenizer.vocabulary).contains(Int($0)) },
          "tokens are the vocabulary's")
        _ = tokenizer.decode(tokens)
      }
      let weights: LlamaWeights
      do throws(FileError) {
        weights = try LlamaWeights(file)
      } catch { return .containerAccepted }
      try use(weights)
      return .accepted
    })

  /// A model in Hugging Face's layout: `config.json` and the weights.
  static let huggingFace = FuzzTarget(
    name: "hugging-face",
    seeds: {
      let folder = try InputFolder()
      try SafetensorsWriter.write(entries(), to: "\(folder.path)/model.safetensors")
      return [Seed(joined([Array(config.utf8), try folder.read("model.safetensors")]))]
    },
    run: { bytes in
      let files = files(bytes, count: 2)
      let folder = try InputFolder()
      try folder.write(files[0], to: "config.json")
      try folder.write(files[1], to: "model.safetensors")
      let weights: LlamaWeights
      do throws(FileError) {
        weights = try LlamaWeights(huggingFace: folder.path)
      } catch { return .refused }
      try use(weights)
      return .accepted
    })

  private static func tokenizer(_ file: GGUFFile) throws(Finding) -> Tokenizer? {
    do throws(FileError) { return try Tokenizer(file) } catch { return nil }
  }

  /// Runs a few tokens through the model.
  private static func use(_ weights: LlamaWeights) throws {
    let shape = weights.configuration
    let tokens = [0, shape.vocabulary - 1, 0].prefix(shape.contextLength).map { Int32($0) }
    let batch = try TokenBatch([tokens], for: shape)
    let hidden = LanguageModel(weights).residual(of: batch, before: shape.blocks)
    try require(hidden.count == tokens.count * shape.dModel, "each token has a row")
  }

  private static let config = """
    {"model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
    "max_position_embeddings": 8, "vocab_size": 5, "rope_theta": 10000, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": false, "rope_scaling": {"rope_type": "default"}, "hidden_act": "silu"}
    """

  private static func entries() -> [SafetensorsWriter.Entry] {
    let model = LlamaWeights.random(
      blocks: 1, dModel: 4, feedForward: 6, heads: 2, keyValueHeads: 1, headDimension: 2,
      vocabulary: 5, seed: 1)
    let (block, prefix) = (model.blocks[0], "model.layers.0.")
    return [
      .init("model.embed_tokens.weight", [5, 4], model.tokenEmbedding),
      .init("model.norm.weight", [4], model.outputNorm),
      .init("lm_head.weight", [5, 4], model.output),
      .init(prefix + "input_layernorm.weight", [4], block.attentionNorm),
      .init(prefix + "self_attn.q_proj.weight", [4, 4], block.query),
      .init(prefix + "self_attn.k_proj.weight", [2, 4], block.key),
      .init(prefix + "self_attn.v_proj.weight", [2, 4], block.value),
      .init(prefix + "self_attn.o_proj.weight", [4, 4], block.attentionOutput),
      .init(prefix + "post_attention_layernorm.weight", [4], block.feedForwardNorm),
      .init(prefix + "mlp.gate_proj.weight", [6, 4], block.gate),
      .init(prefix + "mlp.up_proj.weight", [6, 4], block.up),
      .init(prefix + "mlp.down_proj.weight", [4, 6], block.down),
    ]
  }
}
