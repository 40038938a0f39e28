import GranuleDictionary
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite("Folding")
struct FoldingTests {
  @Test("changes the parts it is asked to, and no dictionary that shares their weights")
  func value() throws {
    let dictionary = SparseAutoencoder.random(dModel: 4, latents: 6, rule: .relu, seed: 3)
    let before = [dictionary.encoderWeights.array, dictionary.decoderWeights.array]
    let tensor = StoredTensor(name: "W_dec", file: "f", type: .float32, shape: [6, 4]) {
      () throws(FileError) in { (_) throws(FileError) in }
    }
    var scaled = dictionary.parts
    try scaled.foldActivationScale(2, tensor: tensor)
    #expect(scaled.encoderWeights.array == before[0].map { 2 * $0 })
    #expect(scaled.decoderWeights.array == before[1].map { $0 / 2 })
    var unit = dictionary.parts
    try unit.foldDecoderNorms(tensor: tensor)
    for latent in 0..<6 {
      let row = unit.decoderWeights.array[latent * 4..<(latent + 1) * 4]
      #expect(abs(row.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
    }
    #expect([dictionary.encoderWeights.array, dictionary.decoderWeights.array] == before)
  }
}
