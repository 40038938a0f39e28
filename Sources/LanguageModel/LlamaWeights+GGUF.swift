public import GranuleFiles
internal import GranuleTensors

extension LlamaConfiguration {
  /// The shape that a GGUF file's metadata states.
  ///
  /// - Throws: `FileError`, naming the key, if it is missing or wrong, or states an
  ///   architecture or a feature other than plain Llama.
  public init(_ file: GGUFFile) throws(FileError) {
    let architecture = try file.required("general.architecture", "a text", \.string)
    guard architecture == "llama" else {
      throw file.fault(
        key: "general.architecture", "is \(architecture), only llama is supported")
    }
    func integer(_ key: String) throws(FileError) -> Int {
      try file.required("llama.\(key)", "an integer", \.integer)
    }
    func integer(_ key: String, default value: Int) throws(FileError) -> Int {
      try file.optional("llama.\(key)", "an integer", \.integer) ?? value
    }
    guard try integer("expert_count", default: 0) == 0 else {
      throw file.fault(key: "llama.expert_count", "mixtures of experts are not supported")
    }
    let scaling = try file.optional("llama.rope.scaling.type", "a text", \.string) ?? "none"
    guard scaling == "none" else {
      throw file.fault(key: "llama.rope.scaling.type", "\(scaling) is not supported")
    }
    let (dModel, heads) = (
      try integer("embedding_length"), try integer("attention.head_count")
    )
    guard (1...Self.countMax).contains(heads), (1...Self.countMax).contains(dModel) else {
      throw file.fault(
        key: "llama.attention.head_count",
        "\(heads) heads in a width of \(dModel) do not make a model")
    }
    let headDimension = try integer("attention.key_length", default: dModel / heads)
    for key in ["attention.value_length", "rope.dimension_count"] {
      let other = try integer(key, default: headDimension)
      guard other == headDimension else {
        throw file.fault(
          key: "llama.\(key)",
          "is \(other); other than the width of a head, \(headDimension), it "
            + "is not supported")
      }
    }
    guard let vocabulary = file["token_embd.weight"]?.shape.first else {
      throw FileError(
        file: file.file.path, tensor: "token_embd.weight", fault: "is missing")
    }
    let fileName = file.file.path.split(separator: "/").last.map(String.init) ?? ""
    self.init(
      blocks: try integer("block_count"), dModel: dModel,
      feedForward: try integer("feed_forward_length"), heads: heads,
      keyValueHeads: try integer("attention.head_count_kv", default: heads),
      headDimension: headDimension, contextLength: try integer("context_length"),
      vocabulary: vocabulary,
      ropeTheta: try file.optional("llama.rope.freq_base", "a number", \.number) ?? 10_000,
      rmsEpsilon: Float(
        try file.required("llama.attention.layer_norm_rms_epsilon", "a number", \.number)),
      name: try file.optional("general.name", "a text", \.string) ?? fileName)
    if let fault { throw FileError(file: file.file.path, fault: fault) }
  }
}

extension LlamaWeights {
  /// Reads all weights of a GGUF file as float32, four bytes an element.
  ///
  /// - Throws: `FileError`, naming key or tensor, where one is missing, has another shape than
  ///   the metadata says, or is none that a plain Llama has, or if there is too little memory.
  public convenience init(_ file: GGUFFile) throws(FileError) {
    let shape = try LlamaConfiguration(file)
    var unused = Set(file.tensors.map(\.name))
    func tensor(_ name: String, _ expected: [Int]) throws(FileError) -> FloatStorage {
      guard let tensor = file[name] else {
        throw FileError(file: file.file.path, tensor: name, fault: "is missing")
      }
      guard tensor.shape == expected else {
        throw tensor.fault("has shape \(tensor.shape), the metadata needs \(expected)")
      }
      unused.remove(name)
      return tensor.float32()
    }
    let needed = 4 * file.tensors.reduce(0) { $0 + $1.count }
    guard Memory.canBeHad(needed) else {
      throw FileError(
        file: file.file.path,
        fault: "needs \(needed) bytes of memory as float32, more than can be had")
    }
    let (d, ff) = (shape.dModel, shape.feedForward)
    let (queries, keys) = (
      shape.heads * shape.headDimension, shape.keyValueHeads * shape.headDimension
    )
    let embedding = try tensor("token_embd.weight", [shape.vocabulary, d])
    var blocks: [LlamaBlockWeights] = []
    for number in 0..<shape.blocks {
      let prefix = "blk.\(number)."
      blocks.append(
        LlamaBlockWeights(
          attentionNorm: try tensor(prefix + "attn_norm.weight", [d]),
          query: try tensor(prefix + "attn_q.weight", [queries, d]),
          key: try tensor(prefix + "attn_k.weight", [keys, d]),
          value: try tensor(prefix + "attn_v.weight", [keys, d]),
          attentionOutput: try tensor(prefix + "attn_output.weight", [d, queries]),
          feedForwardNorm: try tensor(prefix + "ffn_norm.weight", [d]),
          gate: try tensor(prefix + "ffn_gate.weight", [ff, d]),
          up: try tensor(prefix + "ffn_up.weight", [ff, d]),
          down: try tensor(prefix + "ffn_down.weight", [d, ff])))
    }
    let outputNorm = try tensor("output_norm.weight", [d])
    let output =
      file["output.weight"] == nil ? embedding : try tensor("output.weight", [shape.vocabulary, d])
    if let other = unused.min() {
      throw FileError(
        file: file.file.path, tensor: other, fault: "is not part of a plain Llama")
    }
    self.init(
      configuration: shape, tokenEmbedding: embedding, blocks: blocks, outputNorm: outputNorm,
      output: output)
  }
}
