internal import CGranuleKernels
internal import GranuleDictionary
internal import GranuleTensors

/// A dictionary's weights in somebody else's memory, to be read.
package struct EncodingWeights: @unchecked Sendable {
  // Unchecked: the pointers are only read. Who lends them keeps the memory alive, and unchanged while
  // anything reads it.

  /// N
  package let latents: Int
  /// Length of an activation.
  package let dModel: Int
  /// W_enc: [latents, d_model]
  let encoder: UnsafePointer<Float>
  /// b_enc: [latents]
  let encoderBias: UnsafePointer<Float>
  /// W_dec: [latents, d_model]
  let decoder: UnsafePointer<Float>
  /// b_dec: [d_model]
  let decoderBias: UnsafePointer<Float>

  /// A view of these arrays; shapes are as above.
  package init(
    latents: Int, dModel: Int, encoder: UnsafePointer<Float>, encoderBias: UnsafePointer<Float>,
    decoder: UnsafePointer<Float>, decoderBias: UnsafePointer<Float>
  ) {
    self.latents = latents
    self.dModel = dModel
    self.encoder = encoder
    self.encoderBias = encoderBias
    self.decoder = decoder
    self.decoderBias = decoderBias
  }

  /// A view of a dictionary's weights, valid while the dictionary is held.
  init(_ dictionary: SparseAutoencoder) {
    self.init(
      latents: dictionary.latents, dModel: dictionary.dModel,
      encoder: dictionary.encoderWeights.pointer, encoderBias: dictionary.encoderBias.pointer,
      decoder: dictionary.decoderWeights.pointer, decoderBias: dictionary.decoderBias.pointer)
  }
}

/// What happens to an activation before the encoder sees it, and what is known of activations.
struct InputTransform: Sendable {
  /// Length of an activation.
  let dModel: Int
  let normalization: InputNormalization
  let subtractsDecoderBias: Bool
  /// Mean of the activations, [d_model]; nil if unknown. Only the speed of encoding depends on it.
  var mean: [Float]?
  /// Standard deviation of the activations, [d_model]; nil if unknown. For speed, too.
  var deviation: [Float]?

  init(_ dictionary: SparseAutoencoder) {
    dModel = dictionary.dModel
    normalization = dictionary.inputNormalization
    subtractsDecoderBias = dictionary.subtractsDecoderBias
    mean = dictionary.activationMean
    deviation = dictionary.activationDeviation
  }

  /// The transform of a dictionary in training: b_dec is subtracted, nothing is normalised.
  init(dModel: Int, deviation: [Float]?) {
    self.dModel = dModel
    normalization = .none
    subtractsDecoderBias = true
    self.deviation = deviation
  }

  /// Writes the encoder's input, normalised and centred, and returns its squared norm.
  ///
  /// - Parameters:
  ///   - activation: [d_model]
  ///   - decoderBias: [d_model]
  ///   - input: receives [d_model] values.
  /// - Throws: `EncodingError` with token 0.
  func prepare(
    _ activation: UnsafePointer<Float>, decoderBias bias: UnsafePointer<Float>,
    into input: UnsafeMutablePointer<Float>
  ) throws(EncodingError) -> Float {
    // Also finite only if every element is: a NaN or an infinity survives every sum.
    let rawNorm = gk_dot(activation, activation, dModel)
    guard rawNorm.isFinite else {
      if let dimension = (0..<dModel).first(where: { !activation[$0].isFinite }) {
        throw .notFinite(token: 0, dimension: dimension)
      }
      throw .overflow(token: 0)
    }
    let factors = factors(activation)
    switch (normalization, subtractsDecoderBias) {
    case (.none, true): for i in 0..<dModel { input[i] = activation[i] - bias[i] }
    case (.none, false): input.update(from: activation, count: dModel)
    case (_, let subtracts):
      for i in 0..<dModel {
        let normalised = (activation[i] - factors.inputShift) * factors.inputScale
        input[i] = subtracts ? normalised - bias[i] : normalised
      }
    }
    let squaredNorm = gk_dot(input, input, dModel)
    guard squaredNorm.isFinite else { throw .overflow(token: 0) }
    return squaredNorm
  }

  /// What input normalisation does to one token.
  struct Factors {
    /// Normalised input: (x − inputShift) · inputScale.
    var inputShift: Float = 0
    var inputScale: Float = 1
    /// Reconstruction in raw scale: outputScale · x̂ + outputShift.
    var outputScale: Float = 1
    var outputShift: Float = 0
  }

  /// The factors of one activation: [d_model].
  func factors(_ activation: UnsafePointer<Float>) -> Factors {
    switch normalization {
    case .none: return Factors()
    case .constantNormRescale:
      let norm = Double(gk_dot(activation, activation, dModel)).squareRoot()
      // A row of zeros has no direction to rescale: it stays zeros, in and out.
      guard norm > 0 else { return Factors(inputScale: 0, outputScale: 0) }
      let factor = Double(dModel).squareRoot() / norm
      return Factors(inputScale: Float(factor), outputScale: Float(1 / factor))
    case .layerNorm:
      var sum = 0.0
      for i in 0..<dModel { sum += Double(activation[i]) }
      let mean = sum / Double(dModel)
      var squares = 0.0
      for i in 0..<dModel {
        let difference = Double(activation[i]) - mean
        squares += difference * difference
      }
      let deviation = (squares / Double(max(dModel - 1, 1))).squareRoot()
      return Factors(
        inputShift: Float(mean), inputScale: Float(1 / (deviation + 1e-5)),
        outputScale: Float(deviation), outputShift: Float(mean))
    }
  }
}
