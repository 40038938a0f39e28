public import GranuleFiles
internal import GranuleTensors

extension LlamaConfiguration {
  /// The shape that a Hugging Face `config.json` states.
  ///
  /// - Parameter folder: the model's folder, whose name becomes the model's.
  /// - Throws: `FileError`, naming the key, if it is missing or wrong, or states an
  ///   architecture or a feature other than plain Llama.
  init(config: JSONReader, folder: String) throws(FileError) {
    func integer(_ key: String, default standard: Int? = nil) throws(FileError) -> Int {
      if let standard, config.optional(key) == nil { return standard }
      return try config.required(key).integer()
    }
    /// Refuses a key unless it has the value that a plain Llama has.
    func expect(_ key: String, _ expected: JSONValue) throws(FileError) {
      guard let stored = config.optional(key), stored.value != expected else { return }
      throw stored.fault(
        "is \(stored.excerpt), only \(StrictJSON.text(expected)) is supported", kind: .unsupported)
    }
    _ = try config.required("model_type").string()
    try expect("model_type", "llama")
    try expect("hidden_act", "silu")
    try expect("attention_bias", false)
    try expect("mlp_bias", false)
    var theta = try config.optional("rope_theta")?.number() ?? 10_000
    // Newer writers keep the rotary embedding's constants in an object of their own.
    for key in ["rope_scaling", "rope_parameters"] {
      guard let parameters = config.optional(key) else { continue }
      let kind = (parameters["rope_type"] ?? parameters["type"])?.value.string
      guard kind == "default" else {
        throw parameters.fault(
          "has rope_type \(kind ?? "unstated"), only default is supported", kind: .unsupported)
      }
      theta = parameters["rope_theta"]?.value.number ?? theta
    }
    let dModel = try integer("hidden_size")
    let heads = try config.required("num_attention_heads").integer(in: 1...Self.countMax)
    self.init(
      blocks: try integer("num_hidden_layers"), dModel: dModel,
      feedForward: try integer("intermediate_size"), heads: heads,
      keyValueHeads: try integer("num_key_value_heads", default: heads),
      headDimension: try integer("head_dim", default: dModel / heads),
      contextLength: try integer("max_position_embeddings"),
      vocabulary: try integer("vocab_size"), ropeTheta: theta,
      rmsEpsilon: Float(try config.required("rms_norm_eps").number()),
      name: folder.split(separator: "/").last.map(String.init) ?? folder)
    if let fault = self.fault { throw config.fault(fault) }
  }
}

extension LlamaWeights {
  /// The longest JSON file that is read, in bytes.
  private static let jsonBytesMax = 64 << 20

  /// Reads a model in Hugging Face's layout: a folder with `config.json` and `model.safetensors`, or
  /// several files and `model.safetensors.index.json`.
  ///
  /// - Throws: `FileError`, naming file and key or tensor, where one is missing, has another
  ///   shape than the configuration says, or is none that a plain Llama has.
  public convenience init(huggingFace folder: String) throws(FileError) {
    let config = try JSONReader(
      contentsOf: "\(folder)/config.json", byteCountMax: Self.jsonBytesMax)
    let shape = try LlamaConfiguration(config: config, folder: folder)
    var tensors = try Self.tensors(folder)

    func tensor(_ name: String, _ expected: [Int]) throws(FileError) -> FloatStorage {
      guard let tensor = tensors.removeValue(forKey: name) else {
        throw FileError(file: folder, tensor: name, fault: "is missing")
      }
      guard tensor.shape == expected else {
        throw tensor.fault("has shape \(tensor.shape), config.json needs \(expected)")
      }
      return try tensor.float32()
    }
    let (d, ff) = (shape.dModel, shape.feedForward)
    let (queries, keys) = (
      shape.heads * shape.headDimension, shape.keyValueHeads * shape.headDimension
    )
    func rotated(_ name: String, _ rows: Int) throws(FileError) -> FloatStorage {
      let matrix = try tensor(name, [rows, d])
      return Self.pairingNeighbours(matrix, headDimension: shape.headDimension, columns: d)
    }
    let embedding = try tensor("model.embed_tokens.weight", [shape.vocabulary, d])
    var blocks: [LlamaBlockWeights] = []
    for number in 0..<shape.blocks {
      let prefix = "model.layers.\(number)."
      blocks.append(
        LlamaBlockWeights(
          attentionNorm: try tensor(prefix + "input_layernorm.weight", [d]),
          query: try rotated(prefix + "self_attn.q_proj.weight", queries),
          key: try rotated(prefix + "self_attn.k_proj.weight", keys),
          value: try tensor(prefix + "self_attn.v_proj.weight", [keys, d]),
          attentionOutput: try tensor(prefix + "self_attn.o_proj.weight", [d, queries]),
          feedForwardNorm: try tensor(prefix + "post_attention_layernorm.weight", [d]),
          gate: try tensor(prefix + "mlp.gate_proj.weight", [ff, d]),
          up: try tensor(prefix + "mlp.up_proj.weight", [ff, d]),
          down: try tensor(prefix + "mlp.down_proj.weight", [d, ff])))
    }
    let outputNorm = try tensor("model.norm.weight", [d])
    var output = embedding
    if config["tie_word_embeddings"]?.value.bool == true {
      // Some writers store the shared matrix under both names.
      tensors["lm_head.weight"] = nil
    } else {
      output = try tensor("lm_head.weight", [shape.vocabulary, d])
    }
    // Older writers store the rotary embedding's angles, which follow from the configuration.
    if let other = tensors.keys.filter({ !$0.hasSuffix(".rotary_emb.inv_freq") }).min() {
      throw FileError(file: folder, tensor: other, fault: "is not part of a plain Llama")
    }
    self.init(
      configuration: shape, tokenEmbedding: embedding, blocks: blocks, outputNorm: outputNorm,
      output: output)
  }

  /// The rows of each head reordered: that layout turns row i together with row
  /// i + headDimension / 2, which come to be rows 2i and 2i + 1.
  private static func pairingNeighbours(
    _ matrix: FloatStorage, headDimension: Int, columns: Int
  ) -> FloatStorage {
    let result = FloatStorage(count: matrix.count)
    let half = headDimension / 2
    for row in 0..<matrix.count / columns {
      let (head, place) = (row / headDimension, row % headDimension)
      let from = head * headDimension + place / 2 + place % 2 * half
      (result.pointer + row * columns)
        .update(from: matrix.pointer + from * columns, count: columns)
    }
    return result
  }

  /// All tensors of the folder by name, each from the file that the index gives for it.
  private static func tensors(_ folder: String) throws(FileError) -> [String: Tensor] {
    let indexPath = "\(folder)/model.safetensors.index.json"
    guard try Folder.entries(of: folder).contains("model.safetensors.index.json") else {
      let file = try SafetensorsFile(FileBytes.map("\(folder)/model.safetensors"))
      return Dictionary(uniqueKeysWithValues: file.tensors.map { ($0.name, $0) })
    }
    let index = try JSONReader(contentsOf: indexPath, byteCountMax: jsonBytesMax)
    var files: [String: [String: Tensor]] = [:]
    var tensors: [String: Tensor] = [:]
    for entry in try index.required("weight_map").members() {
      let name = try entry.value.string()
      guard !name.contains("/"), name != ".." else {
        throw entry.value.fault("is \(name), which is not a file of the folder")
      }
      if files[name] == nil {
        let file = try SafetensorsFile(FileBytes.map("\(folder)/\(name)"))
        files[name] = Dictionary(uniqueKeysWithValues: file.tensors.map { ($0.name, $0) })
      }
      guard let tensor = files[name]?[entry.key] else {
        throw FileError(file: "\(folder)/\(name)", tensor: entry.key, fault: "is missing")
      }
      tensors[entry.key] = tensor
    }
    return tensors
  }
}
