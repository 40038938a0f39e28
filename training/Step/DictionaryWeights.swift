internal import CGranuleKernels
package import GranuleEncoder
internal import GranuleStatistics
package import GranuleTensors

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

  package var dModel: Int { decoderBias.count }
  package var latents: Int { encoderBias.count }

  /// The parameters with the names that files give them.
  package var named: [(name: String, shape: [Int], values: FloatStorage)] {
    [
      ("W_enc", [latents, dModel], encoder), ("b_enc", [latents], encoderBias),
      ("W_dec", [latents, dModel], decoder), ("b_dec", [dModel], decoderBias),
    ] + (thresholds.map { [("threshold", [latents], $0)] } ?? [])
  }

  /// Random decoder rows of unit norm, the encoder their transpose, no encoder bias.
  package func initialize(decoderBias mean: [Float], seed: UInt64) {
    var generator = Xoshiro(seed: seed)
    for index in 0..<decoder.count { decoder.pointer[index] = Float(generator.normal()) }
    for latent in 0..<latents { gk_normalize(decoder.pointer + latent * dModel, dModel) }
    encoder.pointer.update(from: decoder.pointer, count: decoder.count)
    decoderBias.pointer.update(from: mean, count: dModel)
  }

  /// Encoder rows of the first latents, as another dictionary has them: [some latents, d_model].
  package func adoptEncoders(_ rows: FloatStorage) {
    encoder.pointer.update(from: rows.pointer, count: rows.count)
  }

  /// A view for an encoder, which must not be used while they change or after they are gone.
  package var lent: EncodingWeights {
    EncodingWeights(
      latents: latents, dModel: dModel, encoder: encoder.pointer, encoderBias: encoderBias.pointer,
      decoder: decoder.pointer, decoderBias: decoderBias.pointer)
  }
}
