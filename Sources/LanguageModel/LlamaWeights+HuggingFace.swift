public import GranuleFiles
internal import GranuleTensors

extension LlamaConfiguration {
  /// The shape that a Hugging Face `config.json` states.
  ///
  /// - Parameter folder: the model's folder, whose name becomes the model's.
  /// - Throws: `FileError`, naming the key, where it is missing or wrong, or states an
  ///   architecture or a feature other than plain Llama.
  init(config: JSONValue, path: String, folder: String) throws(FileError) {
    func fault(_ key: String, _ text: String) -> FileError {
      FileError(file: path, fault: "key \(key): \(text)")
    }
    func value<T>(
      _ key: String, default missing: T? = nil, _ what: String, _ value: (JSONValue) -> T?
    ) throws(FileError) -> T {
      guard let stored = config[key], stored != .null else {
        guard let missing else { throw fault(key, "is missing") }
        return missing
      }
      guard let result = value(stored) else { throw fault(key, "is \(stored.kind), no \(what)") }
      return result
    }
    func integer(_ key: String, default missing: Int? = nil) throws(FileError) -> Int {
      try value(key, default: missing, "integer", \.integer)
    }
    /// Refuses a key unless it has the value that a plain Llama has.
    func expect(_ key: String, _ expected: JSONValue) throws(FileError) {
      guard let stored = config[key], stored != .null, stored != expected else { return }
      throw fault(
        key, "\(StrictJSON.text(stored)) is not supported, only \(StrictJSON.text(expected))")
    }
    let type = try value("model_type", "text", \.string)
    guard type == "llama" else { throw fault("model_type", "is \(type), only llama is supported") }
    try expect("hidden_act", "silu")
    try expect("attention_bias", false)
    try expect("mlp_bias", false)
    var theta = try value("rope_theta", default: 10_000, "number", \.number)
    // Newer writers keep the rotary embedding's constants in an object of their own.
    for key in ["rope_scaling", "rope_parameters"] {
      guard let parameters = config[key], parameters != .null else { continue }
      let kind = (parameters["rope_type"] ?? parameters["type"])?.string ?? "of no stated type"
      guard kind == "default" else { throw fault(key, "\(kind) is not supported, only default") }
      theta = parameters["rope_theta"]?.number ?? theta
    }
    let (dModel, heads) = (try integer("hidden_size"), try integer("num_attention_heads"))
    guard (1...Self.countMax).contains(heads) else {
      throw fault("num_attention_heads", "is \(heads)")
    }
    self.init(
      blocks: try integer("num_hidden_layers"), dModel: dModel,
      feedForward: try integer("intermediate_size"), heads: heads,
      keyValueHeads: try integer("num_key_value_heads", default: heads),
      headDimension: try integer("head_dim", default: dModel / heads),
      contextLength: try integer("max_position_embeddings"),
      vocabulary: try integer("vocab_size"), ropeTheta: theta,
      rmsEpsilon: Float(try value("rms_norm_eps", "number", \.number)),
      name: folder.split(separator: "/").last.map(String.init) ?? folder)
    if let fault = self.fault { throw FileError(file: path, fault: fault) }
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
    let configPath = "\(folder)/config.json"
    let config = try Self.json(configPath)
    let shape = try LlamaConfiguration(config: config, path: configPath, folder: folder)
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
    if config["tie_word_embeddings"]?.bool == true {
      // Some writers store the shared matrix under both names.
      tensors["lm_head.weight"] = nil
    } else {
      output = try tensor("lm_head.weight", [shape.vocabulary, d])
    }
    // Older writers store the rotary embedding's angles, which follow from the configuration.
    if let other = tensors.keys.filter({ !$0.hasSuffix(".rotary_emb.inv_freq") }).min() {
      throw FileError(file: folder, tensor: other, fault: "is no part of a plain Llama")
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
    guard let entries = try json(indexPath)["weight_map"]?.members else {
      throw FileError(file: indexPath, fault: "key weight_map: is missing or no object")
    }
    var files: [String: [String: Tensor]] = [:]
    var tensors: [String: Tensor] = [:]
    for entry in entries {
      guard let name = entry.value.string, !name.contains("/"), name != ".." else {
        throw FileError(
          file: indexPath, tensor: entry.key, fault: "its file is not one of the folder's")
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

  private static func json(_ path: String) throws(FileError) -> JSONValue {
    let file = try FileBytes.read(path, byteCountMax: jsonBytesMax)
    do throws(StrictJSONError) { return try StrictJSON.parse(file.bytes) } catch {
      throw FileError(file: path, fault: "is not valid JSON: \(error)")
    }
  }
}
