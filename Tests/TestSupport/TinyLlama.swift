/// A Llama of a few hundred random weights with a tokenizer, as a GGUF file.
public enum TinyLlama {
  /// Its shape.
  public static let (blocks, dModel, feedForward, heads, keyValueHeads) = (2, 8, 16, 2, 1)
  /// The tokenizer's vocabulary: a few letters, a space, and a full stop that ends a text.
  public static let tokens = ["a", "b", "c", "d", "e", "Ġ", "Ġa", "ab", "Ċ", ".", ",", "f"]
  /// Number of tokens.
  public static var vocabulary: Int { tokens.count }
  /// The full stop.
  public static let endToken: Int32 = 9
  /// Positions that it takes.
  public static let contextLength = 64

  /// The file; its output head is tied to the embedding unless `separateOutput`.
  public static func gguf(
    seed: UInt64, separateOutput: Bool = false, blocks: Int = blocks,
    contextLength: Int = contextLength
  ) -> GGUFWriter {
    var generator = SeededGenerator(seed: seed)
    let keys = dModel / heads * keyValueHeads
    func tensor(_ name: String, _ shape: [Int]) -> GGUFWriter.Tensor {
      .init("\(name).weight", shape, generator.normals(shape.reduce(1, *), scale: 0.3))
    }
    var tensors = [tensor("token_embd", [vocabulary, dModel])]
    for block in 0..<blocks {
      let prefix = "blk.\(block)."
      tensors += [
        tensor(prefix + "attn_norm", [dModel]), tensor(prefix + "attn_q", [dModel, dModel]),
        tensor(prefix + "attn_k", [keys, dModel]), tensor(prefix + "attn_v", [keys, dModel]),
        tensor(prefix + "attn_output", [dModel, dModel]), tensor(prefix + "ffn_norm", [dModel]),
        tensor(prefix + "ffn_gate", [feedForward, dModel]),
        tensor(prefix + "ffn_up", [feedForward, dModel]),
        tensor(prefix + "ffn_down", [dModel, feedForward]),
      ]
    }
    tensors.append(tensor("output_norm", [dModel]))
    if separateOutput { tensors.append(tensor("output", [vocabulary, dModel])) }
    return GGUFWriter(
      [
        ("general.architecture", .string("llama")), ("general.name", .string("tiny")),
        ("llama.block_count", .uint32(UInt32(blocks))),
        ("llama.embedding_length", .uint32(UInt32(dModel))),
        ("llama.feed_forward_length", .uint32(UInt32(feedForward))),
        ("llama.attention.head_count", .uint32(UInt32(heads))),
        ("llama.attention.head_count_kv", .uint32(UInt32(keyValueHeads))),
        ("llama.context_length", .uint32(UInt32(contextLength))),
        ("llama.rope.freq_base", .float32(10_000)),
        ("llama.attention.layer_norm_rms_epsilon", .float32(1e-5)),
        ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string("smollm")),
        ("tokenizer.ggml.tokens", .strings(tokens)),
        ("tokenizer.ggml.merges", .strings(["a b", "Ġ a"])),
        ("tokenizer.ggml.eos_token_id", .uint32(UInt32(endToken))),
      ], tensors)
  }

  /// Text of its vocabulary.
  public static func text(characters: Int, seed: UInt64) -> String {
    var generator = SeededGenerator(seed: seed)
    let alphabet: [Character] = ["a", "a", "b", "c", "d", "e", "f", " ", " ", "\n", ".", ","]
    return String((0..<characters).map { _ in alphabet.randomElement(using: &generator) ?? "a" })
  }
}
