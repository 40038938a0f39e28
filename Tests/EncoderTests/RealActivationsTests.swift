import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite(
  "On SmolLM2's activations, position 0 included",
  .enabled(if: SharedData.isPresent, "../shared/data is not there"))
struct RealActivationsTests {
  /// Every `stride`-th token's activation, of which the first is at position 0.
  static func activations(_ name: String, first: Int, stride: Int, count: Int) throws -> [Float] {
    let tensor = try NumpyFile(FileBytes.map(SharedData.path("activations/\(name)"))).tensor
    let dModel = tensor.shape.last!
    let all = try tensor.float32()
    return (0..<count).flatMap { token in
      Array(all.values[((first + token * stride) * dModel)...].prefix(dModel))
    }
  }

  /// A dictionary whose latents are activations, less their mean, at unit norm: what training starts
  /// from; its scores are as correlated as real ones.
  static func dictionary(_ samples: [Float], dModel: Int, rule: SelectionRule) -> SparseAutoencoder
  {
    let latents = samples.count / dModel
    var mean = [Float](repeating: 0, count: dModel)
    var squares = [Float](repeating: 0, count: dModel)
    for latent in 0..<latents {
      for i in 0..<dModel { mean[i] += samples[latent * dModel + i] / Float(latents) }
    }
    for latent in 0..<latents {
      for i in 0..<dModel {
        let difference = samples[latent * dModel + i] - mean[i]
        squares[i] += difference * difference / Float(latents)
      }
    }
    var rows = samples
    for latent in 0..<latents {
      let range = latent * dModel..<(latent + 1) * dModel
      for i in range { rows[i] -= mean[i - range.lowerBound] }
      let norm = rows[range].reduce(0) { $0 + $1 * $1 }.squareRoot()
      for i in range { rows[i] /= max(norm, 1e-6) }
    }
    var parts = SparseAutoencoder.Parts(
      encoderWeights: FloatStorage(rows), encoderBias: FloatStorage(count: latents),
      decoderWeights: FloatStorage(rows), decoderBias: FloatStorage(mean), selectionRule: rule)
    parts.activationMean = mean
    parts.activationDeviation = squares.map { $0.squareRoot() }
    return SparseAutoencoder(parts)
  }

  @Test(
    "every encoder equals the plain reference",
    arguments: ["smollm2_l10_40x512x576_f16.npy", "smollm2_l15_40x512x576_f16.npy"],
    RuleKind.allCases)
  func exact(file: String, kind: RuleKind) throws {
    let samples = try Self.activations(file, first: 3, stride: 10, count: 2000)
    // 512 positions a sequence: 0, 128, 256, 384, 0, …
    let tokens = try Self.activations(file, first: 0, stride: 128, count: 100)
    let rule: SelectionRule =
      switch kind {
      case .topk: .topk(k: 32)
      case .relu: .relu
      case .threshold: .threshold((0..<2000).map { Float($0 % 50) })
      }
    let dictionary = Self.dictionary(samples, dModel: 576, rule: rule)
    for granularity in [1999, 256] {
      let expected = try dictionary.expected(tokens, granularity: granularity)
      for manner in EncodeManner.all {
        let codes = try dictionary.encoder(manner.cpu, manner.path).encode(
          tokens, granularity: granularity, in: EncodeWorkspace())
        expectEqual(codes, expected, "\(file) \(kind) \(manner) G \(granularity)")
      }
    }
  }
}
