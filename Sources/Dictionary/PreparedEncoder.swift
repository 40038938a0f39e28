package import GranuleTensors

/// What encoding needs beside the weights, the encoder in 8 bits foremost, kept up by an owner of
/// weights that change: a trainer packs the rows that it has changed, while they are in cache, and
/// makes the next dictionary with it (`SparseAutoencoder.Parts.preparedEncoder`).
///
/// Answers do not depend on it. What balances its quantisation is that of the weights it was made
/// from: made anew now and then, it stays sharp.
package final class PreparedEncoder: Sendable {
  /// Number of latents in a panel, the unit in which latents are packed.
  package static let panelLatents = QuantizedEncoder.panelLatents

  let quantized: QuantizedEncoder

  /// Packs all of a dictionary's encoder; nil where d_model is too large for one.
  package init?(_ dictionary: SparseAutoencoder) {
    guard dictionary.dModel <= QuantizedEncoder.dModelMax else { return nil }
    quantized = QuantizedEncoder(dictionary, cpu: dictionary.encoderCPU)
  }

  /// Packs a panel again, whose weights have changed. Several threads may, each other panels; while
  /// they do, and until `finish`, nobody may encode.
  ///
  /// - Parameters:
  ///   - encoder: W_enc, [latents, d_model]
  ///   - biases: b_enc, [latents]
  package func pack(panel: Int, encoder: FloatStorage, biases: FloatStorage) {
    quantized.pack(panels: panel..<panel + 1, weights: encoder, biases: biases)
  }

  /// Ends a round of packing.
  ///
  /// - Parameter thresholds: θ, [latents], where the rule is `threshold`; none negative.
  package func finish(thresholds: FloatStorage?) { quantized.finishPacking(thresholds: thresholds) }
}
