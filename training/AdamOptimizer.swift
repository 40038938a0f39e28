internal import CKernels
internal import Glibc
internal import Tensors

/// Adam with decoupled weight decay (AdamW, as torch.optim takes it) on a dictionary's weights,
/// whose decoder rows stay unit vectors.
package struct AdamOptimizer {
  static let beta1 = 0.9
  static let beta2 = 0.999
  static let epsilon = 1e-8

  let firstMoments: DictionaryWeights
  let secondMoments: DictionaryWeights
  /// Steps taken.
  var steps = 0

  package init(latents: Int, dModel: Int) {
    firstMoments = DictionaryWeights(latents: latents, dModel: dModel)
    secondMoments = DictionaryWeights(latents: latents, dModel: dModel)
  }

  /// Takes one step. `gradient` is changed: the part of a decoder row's gradient along the row,
  /// which only its norm would feel, is removed.
  ///
  /// - Parameter gradientNormMax: gradients are scaled so that their norm is at most this; 0:
  ///   never.
  /// - Returns: the gradient's norm before it was scaled.
  package mutating func step(
    _ weights: DictionaryWeights, gradient: DictionaryWeights, learningRate: Double,
    weightDecay: Double, gradientNormMax: Double
  ) -> Double {
    let (dModel, latents) = (weights.dModel, weights.latents)
    var rowNorms = [Double](repeating: 0, count: latents)
    rowNorms.withUnsafeMutableBufferPointer { rowNorms in
      let rowNorms = rowNorms
      Parallel.forRanges(latents) { _, range in
        for latent in range {
          let decoder = gradient.decoder.pointer + latent * dModel
          let encoder = gradient.encoder.pointer + latent * dModel
          granule_remove_parallel(decoder, weights.decoder.pointer + latent * dModel, dModel)
          let bias = Double(gradient.encoderBias.pointer[latent])
          rowNorms[latent] =
            Double(granule_dot(decoder, decoder, dModel))
            + Double(granule_dot(encoder, encoder, dModel)) + bias * bias
        }
      }
    }
    let bias = gradient.decoderBias.pointer
    let squaredNorm = rowNorms.reduce(Double(granule_dot(bias, bias, dModel)), +)
    let norm = squaredNorm.squareRoot()

    steps += 1
    var constants = granule_adam_step(
      learning_rate: Float(learningRate), beta1: Float(Self.beta1), beta2: Float(Self.beta2),
      epsilon: Float(Self.epsilon), bias_correction1: Float(1 - pow(Self.beta1, Double(steps))),
      bias_correction2: Float(1 - pow(Self.beta2, Double(steps))),
      weight_decay: Float(weightDecay),
      gradient_scale: gradientNormMax > 0 && norm > gradientNormMax
        ? Float(gradientNormMax / norm) : 1)
    Parallel.forRanges(latents) { _, range in
      let (start, count) = (range.lowerBound, range.count)
      update(\.encoder, from: start * dModel, count: count * dModel)
      update(\.encoderBias, from: start, count: count)
      update(\.decoder, from: start * dModel, count: count * dModel)
      for latent in range { granule_normalize(weights.decoder.pointer + latent * dModel, dModel) }
    }
    update(\.decoderBias, from: 0, count: dModel)
    return norm

    func update(_ part: KeyPath<DictionaryWeights, FloatStorage>, from start: Int, count: Int) {
      granule_adam(
        weights[keyPath: part].pointer + start, firstMoments[keyPath: part].pointer + start,
        secondMoments[keyPath: part].pointer + start, gradient[keyPath: part].pointer + start,
        count,
        &constants)
    }
  }
}
