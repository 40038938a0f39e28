import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("BatchTopK")
struct BatchTopKTests {
  @Test(
    "takes the largest of the whole batch, whatever was guessed",
    arguments: [nil, 1, 0.5, 1e-6] as [Float?])
  func largestOfBatch(guessFactor: Float?) throws {
    let (dModel, latents, tokens) = (48, 700, 90)
    let dictionary = SparseAutoencoder.random(
      dModel: dModel, latents: latents, rule: .topk(k: 8), seed: 4)
    var generator = SeededGenerator(seed: 21)
    var activations = generator.normals(tokens * dModel)
    // Tokens of very different norms: some get many latents, some none.
    for token in 0..<tokens {
      let scale = Float(1 + token % 7 * 3)
      for i in 0..<dModel { activations[token * dModel + i] *= scale }
    }
    let encoder = try dictionary.encoder(batchGuessFactor: guessFactor)
    for (granularity, k) in [(700, 8), (700, 1), (300, 20), (5, 5), (64, 64)] {
      let expected = try ReferenceEncoder(dictionary).encodeBatchTopK(
        activations, granularity: granularity, k: k)
      let (codes, threshold) = try activations.withUnsafeBufferPointer {
        try encoder.core.encodeBatchTopK(
          $0, granularity: granularity, k: k, in: EncodeWorkspace(threads: 2))
      }
      let isEqual = codes == expected
      #expect(isEqual, "G \(granularity), k \(k)")
      let least = codes.values.count == k * tokens ? codes.values.min()! : 0
      #expect(threshold == least, "G \(granularity), k \(k)")
    }
  }

  @Test("leaves exempt latents out, and keeps as many of the others as it is told")
  func exempt() throws {
    let (dModel, latents, tokens) = (24, 300, 60)
    let dictionary = SparseAutoencoder.random(
      dModel: dModel, latents: latents, rule: .topk(k: 8), seed: 6)
    var generator = SeededGenerator(seed: 22)
    let activations = generator.normals(tokens * dModel)
    let all = try ReferenceEncoder(dictionary).encode(activations, granularity: latents, k: latents)
    let encoder = try dictionary.encoder()
    for (exempt, count) in [(40, 500), (1, 60), (299, 7), (100, 1), (290, 5000)] {
      let (codes, threshold) = try activations.withUnsafeBufferPointer {
        try encoder.core.encodeBatchTopK(
          $0, granularity: latents, k: 8, count: count, exempt: exempt,
          in: EncodeWorkspace(threads: 2))
      }
      let others = all.droppingLatents(exempt)
      let wanted = others.values.sorted(by: >).prefix(count)
      #expect(codes.values.sorted(by: >) == Array(wanted))
      #expect(codes.indices.allSatisfy { $0 >= UInt32(exempt) })
      #expect(threshold == (wanted.count == count ? wanted.last : 0))
      // With the exempt ones before them again, token by token.
      let whole = all.prefix(granularity: exempt).appendingLatents(of: others)
      #expect(whole == all)
    }
  }

  @Test("names the token that cannot be encoded")
  func refusal() throws {
    let dictionary = SparseAutoencoder.random(dModel: 8, latents: 64, rule: .topk(k: 4), seed: 4)
    var activations = [Float](repeating: 1, count: 200 * 8)
    activations[150 * 8 + 3] = .nan
    let encoder = try dictionary.encoder()
    #expect(throws: EncodingError.notFinite(token: 150, dimension: 3)) {
      try activations.withUnsafeBufferPointer {
        try encoder.core.encodeBatchTopK(
          $0, granularity: 64, k: 4, in: EncodeWorkspace(threads: 2))
      }
    }
  }
}
