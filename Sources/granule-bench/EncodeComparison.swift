import CGranuleKernels
import GranuleDictionary
import GranuleTensors

/// A comparison of the active latents that the encoder and the baseline find.
struct EncodeComparison {
  /// Number of tokens compared.
  private(set) var tokens = 0
  /// Number of tokens whose sets differ only in latents that rounding cannot tell apart.
  private(set) var tiedTokens = 0
  /// Number of tokens whose sets or values differ by more.
  private(set) var differingTokens = 0
  /// Sum of the values that the encoder found.
  private(set) var valueSum = 0.0

  private let dictionary: SparseAutoencoder
  private let k: Int
  /// Largest difference of two sums of products, relative to an input's norm.
  private let rounding: Float

  init(_ dictionary: SparseAutoencoder, k: Int) {
    self.dictionary = dictionary
    self.k = k
    let dModel = dictionary.dModel
    let squaredNorm = (0..<dictionary.latents).reduce(Float(0)) { largest, latent in
      let row = dictionary.encoderWeights.pointer + latent * dModel
      return max(largest, gk_dot(row, row, dModel))
    }
    // Errors of d roundings add up like a random walk's steps; 4 deviations on each side.
    rounding = 8 * Float(dModel).squareRoot() * 0x1p-24 * squaredNorm.squareRoot()
  }

  /// Compares the codes of activations: [tokens, d_model].
  mutating func add(
    _ codes: SparseCodes, _ baseline: DenseEncodeBaseline.Codes,
    activations: UnsafePointer<Float>
  ) {
    for token in 0..<codes.tokens {
      let range = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
      let ours = Dictionary(
        uniqueKeysWithValues: zip(codes.indices[range], codes.values[range]))
      let theirs = baseline.row(token)
      valueSum += codes.values[range].reduce(0) { $0 + Double($1) }
      tokens += 1
      let tolerance = tolerance(activations + token * dictionary.dModel)
      // A value that one side lacks must be within rounding of that side's least.
      func isClose(_ mine: [UInt32: Float], _ others: [UInt32: Float]) -> Bool {
        let least = others.count < k ? 0 : others.values.min() ?? 0
        return mine.allSatisfy { latent, value in
          abs(value - (others[latent] ?? least)) <= tolerance
        }
      }
      if !isClose(ours, theirs) || !isClose(theirs, ours) {
        differingTokens += 1
      } else if ours.keys != theirs.keys {
        tiedTokens += 1
      }
    }
  }

  private func tolerance(_ activation: UnsafePointer<Float>) -> Float {
    var squaredNorm: Float = 0
    for i in 0..<dictionary.dModel {
      let center = dictionary.subtractsDecoderBias ? dictionary.decoderBias.pointer[i] : 0
      squaredNorm += (activation[i] - center) * (activation[i] - center)
    }
    return rounding * squaredNorm.squareRoot() + 1e-6
  }
}
