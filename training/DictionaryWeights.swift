internal import CKernels
internal import Glibc
internal import SparseAutoencoder
package import Tensors

/// The parameters of a dictionary, or anything that has their shapes: gradients, moments.
package struct DictionaryWeights {
  /// W_enc: [latents, d_model], latent-major.
  package let encoder: FloatStorage
  /// b_enc: [latents]
  package let encoderBias: FloatStorage
  /// W_dec: [latents, d_model]
  package let decoder: FloatStorage
  /// b_dec: [d_model]
  package let decoderBias: FloatStorage
  /// θ of JumpReLU: [latents]; nil for other objectives.
  package let thresholds: FloatStorage?

  /// Zeros.
  package init(latents: Int, dModel: Int, hasThresholds: Bool = false) {
    thresholds = hasThresholds ? FloatStorage(count: latents) : nil
    encoder = FloatStorage(count: latents * dModel)
    encoderBias = FloatStorage(count: latents)
    decoder = FloatStorage(count: latents * dModel)
    decoderBias = FloatStorage(count: dModel)
  }

  var dModel: Int { decoderBias.count }
  var latents: Int { encoderBias.count }

  /// The parameters with the names that files give them.
  var named: [(name: String, shape: [Int], values: FloatStorage)] {
    [
      ("W_enc", [latents, dModel], encoder), ("b_enc", [latents], encoderBias),
      ("W_dec", [latents, dModel], decoder), ("b_dec", [dModel], decoderBias),
    ] + (thresholds.map { [("threshold", [latents], $0)] } ?? [])
  }

  /// Random decoder rows of unit norm, the encoder their transpose, no encoder bias.
  package func initialize(decoderBias mean: [Float], seed: UInt64) {
    var generator = Xoshiro(seed: seed)
    for index in 0..<decoder.count { decoder.pointer[index] = Float(generator.normal()) }
    for latent in 0..<latents { granule_normalize(decoder.pointer + latent * dModel, dModel) }
    encoder.pointer.update(from: decoder.pointer, count: decoder.count)
    decoderBias.pointer.update(from: mean, count: dModel)
  }

  /// Encoder rows of the first latents, as another dictionary has them: [some latents, d_model].
  func adoptEncoders(_ rows: FloatStorage) {
    encoder.pointer.update(from: rows.pointer, count: rows.count)
  }

  /// What the dictionary of these weights is made of, sharing their memory.
  func parts(_ rule: SelectionRule) -> SparseAutoencoder.Parts {
    SparseAutoencoder.Parts(
      encoderWeights: encoder, encoderBias: encoderBias, decoderWeights: decoder,
      decoderBias: decoderBias, selectionRule: rule)
  }
}

/// A generator whose numbers are the same everywhere and forever (xoshiro256**, Blackman & Vigna):
/// the standard library's promises neither.
struct Xoshiro {
  private var state: (UInt64, UInt64, UInt64, UInt64)

  init(seed: UInt64) {
    // SplitMix64 spreads the seed, as the authors advise.
    var mix = seed
    func next() -> UInt64 {
      mix &+= 0x9E37_79B9_7F4A_7C15
      var z = mix
      z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
      return z ^ (z >> 31)
    }
    state = (next(), next(), next(), next())
  }

  mutating func next() -> UInt64 {
    func rotated(_ value: UInt64, _ count: UInt64) -> UInt64 {
      (value << count) | (value >> (64 - count))
    }
    let result = rotated(state.1 &* 5, 7) &* 9
    let shifted = state.1 << 17
    state.2 ^= state.0
    state.3 ^= state.1
    state.1 ^= state.2
    state.0 ^= state.3
    state.2 ^= shifted
    state.3 = rotated(state.3, 45)
    return result
  }

  /// Uniform in 0 ..< 1, 53 bits.
  mutating func uniform() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// Uniform in 0 ..< bound, by multiplication (Lemire).
  mutating func below(_ bound: Int) -> Int {
    Int(next().multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// Standard normal (Box and Muller).
  mutating func normal() -> Double {
    let radius = (-2 * log(1 - uniform())).squareRoot()
    return radius * cos(2 * .pi * uniform())
  }
}
