internal import Glibc
package import GranuleFiles
package import GranuleTensors

/// Steps that other libraries take besides a product and a comparison, folded into the weights: outputs
/// stay the same except for rounding. Other values that share the weights keep theirs.
extension SparseAutoencoder.Parts {
  private var dModel: Int { decoderBias.count }

  /// Copies weights that are shared, before they are written.
  ///
  /// - Throws: `FileError` that names the tensor's file if there is no memory for a copy.
  private static func unshare(
    _ weights: inout FloatStorage, _ tensor: StoredTensor
  ) throws(FileError) {
    guard !isKnownUniquelyReferenced(&weights) else { return }
    guard Memory.canBeHad(4 * weights.count) else {
      throw FileError(
        file: tensor.file, kind: .outOfMemory,
        fault: "its folded copy takes \(4 * weights.count) bytes, which cannot be had")
    }
    weights = FloatStorage(copying: weights)
  }

  /// Folds ‖W_dec[j]‖, by which pre-activations are multiplied before the selection and divided when
  /// decoding: encoder rows and biases become longer by the norm, decoder rows get unit norm.
  /// Thresholds apply to the products already. A latent whose row is zero stays without effect.
  ///
  /// - Parameter tensor: the decoder's, for messages.
  /// - Throws: `FileError` if a scaled weight overflows float32.
  package mutating func foldDecoderNorms(tensor: StoredTensor) throws(FileError) {
    try Self.unshare(&encoderWeights, tensor)
    try Self.unshare(&encoderBias, tensor)
    try Self.unshare(&decoderWeights, tensor)
    for latent in 0..<encoderBias.count {
      let row = decoderWeights.pointer + latent * dModel
      var squares = 0.0
      for i in 0..<dModel { squares += Double(row[i]) * Double(row[i]) }
      let norm = squares.squareRoot()
      let factor = Float(norm)
      // A row of zeros writes nothing, whatever its latent's value.
      if norm > 0 { for i in 0..<dModel { row[i] = Float(Double(row[i]) / norm) } }
      guard scaleEncoder(latent, by: factor) else {
        throw tensor.fault(
          "[\(latent)] has norm \(norm): the encoder's row, scaled by it, overflows float32")
      }
    }
  }

  /// Folds gates: with u = W_enc x, a latent has the value ReLU(exp(r_j) u_j + b_mag) if
  /// u_j + b_gate > 0. That is a threshold: with h = exp(r) u + b_mag, u + b_gate > 0 says
  /// h > b_mag − exp(r) b_gate (Rajamanoharan et al., Improving Dictionary Learning with Gated Sparse
  /// Autoencoders, appendix on JumpReLU). The encoder's bias must be b_mag.
  ///
  /// - Parameters:
  ///   - bias: b_gate, [latents]
  ///   - magnitude: r, [latents]
  ///   - tensor: that of r, for messages.
  /// - Throws: `FileError` if a scaled weight overflows float32.
  package mutating func foldGate(
    bias: FloatStorage, magnitude: FloatStorage, tensor: StoredTensor
  ) throws(FileError) {
    try Self.unshare(&encoderWeights, tensor)
    var thresholds: [Float] = []
    for latent in 0..<encoderBias.count {
      let factor = exp(Double(magnitude.pointer[latent]))
      let magnitudeBias = encoderBias.pointer[latent]
      let threshold = Float(Double(magnitudeBias) - factor * Double(bias.pointer[latent]))
      let isFinite = scaleEncoder(latent, by: Float(factor), scalesBias: false)
      guard isFinite, threshold.isFinite else {
        throw tensor.fault(
          "[\(latent)] is \(magnitude.pointer[latent]): weights times its exponential overflow "
            + "float32")
      }
      thresholds.append(threshold)
    }
    selectionRule = .threshold(thresholds)
  }

  /// Folds the factor by which training multiplied activations and divided reconstructions: the encoder
  /// becomes longer by it, the decoder and its bias shorter.
  ///
  /// - Parameter tensor: the decoder's, for messages.
  /// - Throws: `FileError` if the factor is not positive, inputs are normalised as well, or a scaled
  ///   weight overflows float32.
  package mutating func foldActivationScale(
    _ scale: Double, tensor: StoredTensor
  ) throws(FileError) {
    guard scale.isFinite, scale > 0 else {
      throw FileError(
        file: tensor.file, fault: "the activation scale is \(scale), it must be positive")
    }
    guard inputNormalization == .none else {
      throw FileError(
        file: tensor.file,
        fault:
          "has inputs normalised by \(inputNormalization.rawValue): a scale beside has no effect"
      )
    }
    try Self.unshare(&encoderWeights, tensor)
    try Self.unshare(&decoderWeights, tensor)
    try Self.unshare(&decoderBias, tensor)
    for latent in 0..<encoderBias.count {
      guard scaleEncoder(latent, by: Float(scale), scalesBias: false) else {
        throw FileError(
          file: tensor.file, fault: "the activation scale \(scale) makes W_enc overflow float32")
      }
    }
    for weights in [decoderWeights, decoderBias] {
      for i in 0..<weights.count {
        weights.pointer[i] = Float(Double(weights.pointer[i]) / scale)
        guard weights.pointer[i].isFinite else {
          throw FileError(
            file: tensor.file, fault: "the activation scale \(scale) makes W_dec overflow float32")
        }
      }
    }
    provenance.activationScale = scale
  }

  /// Whether the row is finite still.
  private func scaleEncoder(_ latent: Int, by factor: Float, scalesBias: Bool = true) -> Bool {
    let row = encoderWeights.pointer + latent * dModel
    var isFinite = true
    for i in 0..<dModel {
      row[i] *= factor
      isFinite = isFinite && row[i].isFinite
    }
    if scalesBias { encoderBias.pointer[latent] *= factor }
    return isFinite && encoderBias.pointer[latent].isFinite
  }
}
