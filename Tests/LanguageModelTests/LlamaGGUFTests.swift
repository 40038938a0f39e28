import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("A Llama in a GGUF file")
struct LlamaGGUFTests {
  @Test("is read with every weight in its place, output head tied or separate")
  func weights() throws {
    for separate in [false, true] {
      let writer = TinyLlama.gguf(seed: 3, separateOutput: separate)
      let file = try gguf(writer.bytes())
      let weights = try LlamaWeights(file)
      let shape = weights.configuration
      #expect(
        shape
          == LlamaConfiguration(
            blocks: 2, dModel: 8, feedForward: 16, heads: 2, keyValueHeads: 1, headDimension: 4,
            contextLength: 64, vocabulary: 12, ropeTheta: 10_000, rmsEpsilon: 1e-5, name: "tiny"))
      func stored(_ name: String) -> [Float]? { file["\(name).weight"]?.float32().array }
      #expect(weights.tokenEmbedding.array == stored("token_embd"))
      #expect((weights.output === weights.tokenEmbedding) == !separate)
      if separate { #expect(weights.output.array == stored("output")) }
      #expect(weights.outputNorm.array == stored("output_norm"))
      for (number, block) in weights.blocks.enumerated() {
        for (name, values) in [
          ("attn_norm", block.attentionNorm), ("attn_q", block.query), ("attn_k", block.key),
          ("attn_v", block.value), ("attn_output", block.attentionOutput),
          ("ffn_norm", block.feedForwardNorm), ("ffn_gate", block.gate), ("ffn_up", block.up),
          ("ffn_down", block.down),
        ] {
          #expect(values.array == stored("blk.\(number).\(name)"))
        }
      }
    }
  }

  @Test("is refused by name where it is another architecture or lacks something")
  func refusals() throws {
    func expectFault(_ text: String, _ change: (inout GGUFWriter) -> Void) {
      var writer = TinyLlama.gguf(seed: 4)
      change(&writer)
      let error = #expect(throws: FileError.self) {
        try LlamaWeights(try gguf(writer.bytes()))
      }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
    }
    expectFault("is gemma2, only llama") { $0.set("general.architecture", .string("gemma2")) }
    expectFault("general.architecture is missing") { $0.metadata.removeFirst() }
    expectFault("experts") { $0.set("llama.expert_count", .uint32(8)) }
    expectFault("yarn") { $0.set("llama.rope.scaling.type", .string("yarn")) }
    expectFault("llama.rope.dimension_count") { $0.set("llama.rope.dimension_count", .uint32(2)) }
    expectFault("llama.block_count is not an integer") { $0.set("llama.block_count", .string("2")) }
    expectFault("share 3 key/value heads") {
      $0.set("llama.attention.head_count_kv", .uint32(3))
    }
    expectFault("number of blocks is 0") { $0.set("llama.block_count", .uint32(0)) }
    expectFault("blk.2.attn_norm.weight: is missing") { $0.set("llama.block_count", .uint32(3)) }
    expectFault("not part of a plain Llama") { $0.set("llama.block_count", .uint32(1)) }
    expectFault("has shape [16, 8], the metadata needs [8, 8]") {
      $0.set("llama.feed_forward_length", .uint32(8))
    }
    expectFault("rope_freqs.weight") { $0.tensors.append(.init("rope_freqs.weight", [2], [1, 8])) }
    expectFault("token_embd.weight: is missing") { $0.tensors.removeFirst() }
  }

  @Test(
    "downloaded: has the shape that is known, and the embeddings that PyTorch computed with",
    .enabled(if: DownloadedModel.path != nil, "scripts/fetch-model has not been run"),
    .enabled(if: SharedData.isPresent, "there is no ../shared/data beside the checkout"))
  func downloaded() throws {
    let weights = try LlamaWeights(GGUFFile(path: try #require(DownloadedModel.path)))
    let shape = weights.configuration
    #expect((shape.blocks, shape.dModel, shape.feedForward) == (30, 576, 1536))
    #expect((shape.heads, shape.keyValueHeads, shape.headDimension) == (9, 3, 64))
    #expect((shape.contextLength, shape.vocabulary) == (8192, 49_152))
    #expect((shape.ropeTheta, shape.rmsEpsilon) == (100_000, 1e-5))
    #expect(weights.output === weights.tokenEmbedding)
    let golden = try SafetensorsFile(
      FileBytes.map(SharedData.path("golden/smollm2_q4_1_golden.safetensors")))
    let ids = try golden.tensor("ids").integers()
    let expected = try golden.tensor("h0").float32().array
    let embedding = weights.tokenEmbedding
    let actual = ids.flatMap { id in Array(embedding.values[id * 576..<(id + 1) * 576]) }
    #expect(actual == expected)
  }
}
