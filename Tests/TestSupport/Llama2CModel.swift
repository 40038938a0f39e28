public import GranuleFiles
public import GranuleLanguageModel
internal import GranuleTensors

/// A model in llama2.c's format: seven int32 (d_model, feed-forward width, blocks, heads, key/value
/// heads, vocabulary, context), then float32 tensors, each of all blocks together.
public enum Llama2CModel {
  /// The model in a file.
  ///
  /// - Throws: `FileError` where the file cannot be read or has another length than its header
  ///   says.
  public static func weights(_ path: String) throws(FileError) -> LlamaWeights {
    let file = try FileBytes.read(path)
    let bytes = file.bytes
    guard bytes.count >= 28 else { throw FileError(file: path, fault: "has no header") }
    let header = (0..<7).map { Int(bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Int32.self)) }
    let (d, feedForward, blocks, heads, keyValueHeads) = (
      header[0], header[1], header[2], header[3], header[4]
    )
    // A negative vocabulary says that the output head is not the embedding.
    let (vocabulary, tied) = (abs(header[5]), header[5] > 0)
    let head = d / heads
    var next = 28
    func storage(_ count: Int) throws(FileError) -> FloatStorage {
      let end = next + 4 * count
      guard end <= bytes.count else { throw FileError(file: path, fault: "is too short") }
      let result = FloatStorage(count: count)
      UnsafeMutableRawPointer(result.pointer)
        .copyMemory(from: bytes.baseAddress! + next, byteCount: 4 * count)
      next = end
      return result
    }
    func storages(_ count: Int) throws(FileError) -> [FloatStorage] {
      var result: [FloatStorage] = []
      for _ in 0..<blocks { result.append(try storage(count)) }
      return result
    }
    let embedding = try storage(vocabulary * d)
    let attentionNorms = try storages(d)
    let queries = try storages(heads * head * d)
    let keys = try storages(keyValueHeads * head * d)
    let values = try storages(keyValueHeads * head * d)
    let outputs = try storages(d * heads * head)
    let feedForwardNorms = try storages(d)
    let gates = try storages(feedForward * d)
    let downs = try storages(d * feedForward)
    let ups = try storages(feedForward * d)
    let norm = try storage(d)
    // Tables of rotary embedding, which models compute themselves.
    _ = try storage(header[6] * head)
    let output = tied ? embedding : try storage(vocabulary * d)
    guard next == bytes.count else { throw FileError(file: path, fault: "is too long") }
    return LlamaWeights(
      configuration: LlamaConfiguration(
        blocks: blocks, dModel: d, feedForward: feedForward, heads: heads,
        keyValueHeads: keyValueHeads, headDimension: head, contextLength: header[6],
        vocabulary: vocabulary, ropeTheta: 10000, rmsEpsilon: 1e-5, name: "stories260K"),
      tokenEmbedding: embedding,
      blocks: (0..<blocks).map {
        LlamaBlockWeights(
          attentionNorm: attentionNorms[$0], query: queries[$0], key: keys[$0], value: values[$0],
          attentionOutput: outputs[$0], feedForwardNorm: feedForwardNorms[$0], gate: gates[$0],
          up: ups[$0], down: downs[$0])
      }, outputNorm: norm, output: output)
  }
}
