import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("Decoding")
struct DecodeTests {
  /// float64, by the definition: x̂ = b_dec + Σ_{j < G} z_j W_dec[j].
  func reconstruction(
    _ dictionary: SparseAutoencoder, _ codes: SparseCodes, token: Int, granularity: Int
  ) -> [Double] {
    var result = dictionary.decoderBias.values.map { Double($0) }
    let range = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
    for position in range where codes.indices[position] < UInt32(granularity) {
      let row = Int(codes.indices[position]) * dictionary.dModel
      for i in 0..<dictionary.dModel {
        result[i] +=
          Double(codes.values[position]) * Double(dictionary.decoderWeights.pointer[row + i])
      }
    }
    return result
  }

  @Test(
    "every prefix of one pass equals a float64 reference",
    arguments: [(1, 3), (16, 64), (17, 65), (130, 500)])
  func nested(dModel: Int, latents: Int) throws {
    let dictionary = SparseAutoencoder.random(
      dModel: dModel, latents: latents, rule: .relu, seed: 4)
    var generator = SeededGenerator(seed: 6)
    let tokens = 9
    let activations = generator.normals(tokens * dModel)
    let granularities = Array(Set([1, latents / 3, latents / 2, latents])).sorted()
    try activations.withUnsafeBufferPointer { buffer in
      let encoder = try dictionary.encoder()
      let codes = try encoder.encode(activations)
      var errors = [Float](repeating: -1, count: granularities.count * tokens)
      var reconstructions = [Float](repeating: -1, count: errors.count * dModel)
      encoder.nestedDecode(
        codes, activations: buffer, granularities: granularities, squaredErrors: &errors,
        reconstructions: &reconstructions)
      for (prefix, granularity) in granularities.enumerated() {
        for token in 0..<tokens {
          let expected = reconstruction(dictionary, codes, token: token, granularity: granularity)
          var squaredError = 0.0
          for i in 0..<dModel {
            let got = reconstructions[(prefix * tokens + token) * dModel + i]
            #expect(abs(Double(got) - expected[i]) < 1e-4)
            let difference = Double(buffer[token * dModel + i]) - expected[i]
            squaredError += difference * difference
          }
          let got = Double(errors[prefix * tokens + token])
          #expect(abs(got - squaredError) < 1e-4 * max(1, squaredError))
        }
      }
      #expect(try Array(reconstructions.suffix(tokens * dModel)) == encoder.decode(codes))
      #expect(codes.prefix(granularity: 1).indices.allSatisfy { $0 == 0 })
    }
  }

  @Test("refuses latents that are not in memory")
  func refusals() throws {
    let dictionary = SparseAutoencoder.random(dModel: 4, latents: 8, rule: .relu, seed: 1)
    let encoder = try dictionary.encoder()
    let beyond = try SparseCodes(rowOffsets: [0, 1, 3], indices: [7, 0, 8], values: [1, 1, 1])
    #expect(throws: DecodingError.latent(8, token: 1, latents: 8)) {
      try encoder.decode(beyond)
    }
  }
}
