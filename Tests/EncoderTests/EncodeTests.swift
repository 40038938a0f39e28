import CGranuleKernels
import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("Encoding equals the plain reference to the bit")
struct EncodeTests {
  static let shapes: [(dModel: Int, latents: Int, k: Int)] = [
    (1, 1, 1), (3, 5, 2), (7, 64, 64), (16, 33, 8), (64, 257, 16), (65, 300, 5), (100, 1024, 32),
    (576, 700, 64),
  ]

  static func rules(latents: Int, k: Int) -> [SelectionRule] {
    var generator = SeededGenerator(seed: UInt64(latents))
    return [
      .topk(k: k), .relu, .threshold((0..<latents).map { _ in generator.normal() * 0.5 }),
    ]
  }

  @Test("on random shapes, at every kind of granularity", arguments: shapes)
  func randomShapes(dModel: Int, latents: Int, k: Int) throws {
    let workspace = EncodeWorkspace()
    for (number, rule) in Self.rules(latents: latents, k: k).enumerated() {
      for normalization in [InputNormalization.none, .layerNorm, .constantNormRescale] {
        let dictionary = SparseAutoencoder.random(
          dModel: dModel, latents: latents, rule: rule, seed: UInt64(number)
        ) {
          $0.inputNormalization = normalization
          $0.subtractsDecoderBias = number != 1
        }
        var generator = SeededGenerator(seed: 99)
        let tokens = 37
        var activations = generator.normals(tokens * dModel, scale: 3)
        for i in 0..<dModel { activations[5 * dModel + i] = 0 }  // a row of zeros
        for i in 0..<dModel { activations[6 * dModel + i] *= 1e12 }
        for i in 0..<dModel { activations[7 * dModel + i] *= 1e-30 }
        let granularities = Set([1, 2, latents / 3, latents - 1, latents]).filter {
          (1...latents).contains($0)
        }
        let encoder = try dictionary.encoder()
        for granularity in granularities.sorted() {
          let codes = try encoder.encode(activations, granularity: granularity, in: workspace)
          let expected = try ReferenceEncoder(dictionary).encode(
            activations, granularity: granularity)
          let isEqual = codes == expected
          #expect(isEqual, "\(rule.name) \(normalization) G \(granularity)")
        }
      }
    }
  }

  @Test("when scores tie: the lower index wins")
  func ties() throws {
    let dictionary = SparseAutoencoder.random(
      dModel: 8, latents: 100, rule: .topk(k: 7), seed: 3
    ) { parts in
      for latent in 1..<100 {
        (parts.encoderWeights.pointer + latent * 8).update(
          from: parts.encoderWeights.pointer, count: 8)
        parts.encoderBias.pointer[latent] = parts.encoderBias.pointer[0]
      }
    }
    let codes = try dictionary.encoded(dictionary.encoderWeights.values[..<8].map { $0 * 10 })
    #expect(codes.indices == [0, 1, 2, 3, 4, 5, 6])
  }

  @Test("whatever the batch: one token alone gives the bits that it gives among many")
  func batchIndependence() throws {
    let dictionary = SparseAutoencoder.random(
      dModel: 96, latents: 2000, rule: .topk(k: 32), seed: 11)
    var generator = SeededGenerator(seed: 12)
    let activations = generator.normals(300 * 96, scale: 2)
    let workspace = EncodeWorkspace()
    let encoder = try dictionary.encoder()
    let together = try encoder.encode(activations, granularity: 1500, in: workspace)
    var apart = SparseCodes()
    for token in 0..<300 {
      apart.append(
        try encoder.encode(
          Array(activations[token * 96..<(token + 1) * 96]), granularity: 1500, in: workspace))
    }
    #expect(apart == together)
  }

  @Test("with fewer than k positive latents, and none")
  func fewPositive() throws {
    let dictionary = SparseAutoencoder.random(
      dModel: 4, latents: 50, rule: .topk(k: 40), seed: 1
    ) { parts in
      for latent in 0..<50 { parts.encoderBias.pointer[latent] = latent < 3 ? 5 : -50 }
    }
    let codes = try dictionary.encoded([0, 0, 0, 0])
    #expect(codes.indices == [0, 1, 2])
  }

  @Test("of no tokens: codes of no tokens")
  func noTokens() throws {
    let dictionary = SparseAutoencoder.random(dModel: 4, latents: 8, rule: .relu, seed: 1)
    let codes = try dictionary.encoded([])
    #expect(codes.tokens == 0 && codes.rowOffsets == [0])
  }

  @Test("refuses what it cannot encode, by token and limit")
  func refusals() throws {
    let dictionary = SparseAutoencoder.random(dModel: 4, latents: 8, rule: .topk(k: 2), seed: 1)
    func encode(
      _ activations: [Float], granularity: Int = 8, k: Int? = nil
    ) throws(EncodingError) {
      _ = try dictionary.encoded(activations, granularity: granularity, k: k)
    }
    let good: [Float] = [1, 2, 3, 4]
    #expect(throws: EncodingError.notFinite(token: 1, dimension: 2)) {
      try encode(good + [0, 0, .nan, 0])
    }
    #expect(throws: EncodingError.notFinite(token: 0, dimension: 0)) {
      try encode([-.infinity, 0, 0, 0])
    }
    #expect(throws: EncodingError.overflow(token: 2)) { try encode(good + good + [3e38, 0, 0, 0]) }
    #expect(throws: EncodingError.granularity(0, latents: 8)) { try encode(good, granularity: 0) }
    #expect(throws: EncodingError.granularity(9, latents: 8)) { try encode(good, granularity: 9) }
    #expect(throws: EncodingError.k(5, granularity: 4)) { try encode(good, granularity: 4, k: 5) }
    #expect(throws: EncodingError.k(0, granularity: 4)) { try encode(good, granularity: 4, k: 0) }
    #expect(throws: EncodingError.shape(values: 5, dModel: 4)) { try encode(good + [1]) }
  }

  @Test("k at a granularity: calibrated, interpolated in between, else the fixed ratio")
  func defaultK() {
    let plain = SparseAutoencoder.random(dModel: 2, latents: 1024, rule: .topk(k: 64), seed: 1)
    #expect(plain.defaultK(at: 1024) == 64)
    #expect(plain.defaultK(at: 512) == 32)
    #expect(plain.defaultK(at: 3) == 1)
    let calibrated = SparseAutoencoder.random(
      dModel: 2, latents: 1024, rule: .topk(k: 64), seed: 1
    ) {
      $0.granularities = [
        Granularity(latents: 64, k: 20), Granularity(latents: 256, k: 40),
        Granularity(latents: 1024, k: 64),
      ]
    }
    #expect(calibrated.defaultK(at: 64) == 20)
    #expect(calibrated.defaultK(at: 128) == 30)
    #expect(calibrated.defaultK(at: 32) == 10)
    #expect(calibrated.defaultK(at: 1024) == 64)
    #expect(calibrated.fixedRatioK(at: 64) == 4)
    let shrunk = calibrated.truncated(to: 256)
    #expect(shrunk.defaultK(at: 128) == 30)
    #expect(shrunk.fixedRatioK(at: 64) == 4)
  }

  @Test("a truncated dictionary answers as the whole one does at those granularities")
  func truncation() throws {
    for rule in Self.rules(latents: 300, k: 20) {
      let whole = SparseAutoencoder.random(dModel: 32, latents: 300, rule: rule, seed: 8)
      let part = whole.truncated(to: 120)
      var generator = SeededGenerator(seed: 5)
      let activations = generator.normals(32 * 20)
      for granularity in [1, 60, 120] {
        #expect(
          try part.encoded(activations, granularity: granularity)
            == whole.encoded(activations, granularity: granularity))
      }
      #expect(
        try part.encoder().residentBytes.total < whole.encoder().residentBytes.total / 2)
    }
  }

  @Test("a standalone prefix, written and read back, answers as the whole does at that granularity")
  func standalone() throws {
    let folder = try TemporaryFolder()
    let whole = SparseAutoencoder.random(dModel: 12, latents: 60, rule: .topk(k: 9), seed: 5) {
      $0.granularities = [Granularity(latents: 20, k: 6), Granularity(latents: 60, k: 9)]
    }
    for granularity in [20, 33] {
      try whole.standalone(granularity: granularity).write(to: folder.path)
      let part = try SparseAutoencoder(folder: folder.path)
      #expect(part.latents == granularity && part.granularities.last?.latents == granularity)
      var generator = SeededGenerator(seed: 6)
      let activations = generator.normals(12 * 10)
      let expected = try whole.encoded(activations, granularity: granularity)
      let isEqual = try part.encoded(activations) == expected
      #expect(isEqual)
    }
  }

  @Test("the inner product is the same to the bit in its fast and its plain form")
  func innerProduct() {
    var generator = SeededGenerator(seed: 77)
    for count in [0, 1, 15, 16, 17, 63, 64, 65, 127, 200, 576, 1000] {
      let a = generator.normals(count + 1)
      let b = generator.normals(count + 1)
      a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
          let fast = gk_dot(a.baseAddress! + 1, b.baseAddress! + 1, count)
          let plain = gk_dot_reference(a.baseAddress! + 1, b.baseAddress! + 1, count)
          #expect(fast.bitPattern == plain.bitPattern, "count \(count)")
        }
      }
    }
  }
}
