internal import GranuleTensors
internal import GranuleThreads

/// Encodes with weights that their owner changes between calls: those of a dictionary in training.
///
/// The owner changes a panel of latents and packs it again while its rows are in cache (`pack`,
/// `finish`). Codes do not depend on the packing, but it must be of the weights as they are. What
/// balances its quantisation is that of the weights it was made from: `rebalance` keeps it sharp.
package final class LiveEncoder {
  /// Number of latents in a panel.
  package static let panelLatents = QuantizedEncoder.panelLatents

  private let weights: EncodingWeights
  private let input: InputTransform
  private var quantized: QuantizedEncoder?

  /// An encoder over weights that the caller keeps alive as long as this, with b_dec subtracted from
  /// inputs that are not normalised.
  ///
  /// - Parameter activationDeviation: standard deviation of the activations, [d_model], for speed
  ///   only; nil if unknown.
  package init(_ weights: EncodingWeights, activationDeviation: [Float]? = nil) {
    self.weights = weights
    input = InputTransform(dModel: weights.dModel, deviation: activationDeviation)
  }

  /// Whether the weights are packed, so that whoever changes them must pack again.
  package var isPacked: Bool { quantized != nil }

  /// Packs all panels anew before the next call of `lend`.
  package func rebalance() { quantized = nil }

  /// Packs a panel again, whose weights have changed. Several threads may pack different panels at a
  /// time; nobody may encode until `finish` has returned.
  package func pack(panel: Int) { quantized?.pack(panels: panel..<panel + 1, weights: weights) }

  /// Ends a round of packing.
  ///
  /// - Parameter thresholds: θ, [latents], none negative, if the rule is `threshold`.
  package func finish(thresholds: UnsafePointer<Float>?) {
    quantized?.finishPacking(thresholds: thresholds)
  }

  /// What encodes until the weights change again.
  ///
  /// - Parameters:
  ///   - rule: the selection rule; `threshold` takes its thresholds from `thresholds`.
  ///   - thresholds: θ, [latents], none negative, if the rule is `threshold`. A live encoder has them
  ///     always or never.
  ///   - history: what is known of screening these weights by this rule.
  package func lend(
    _ rule: Rule, thresholds: UnsafePointer<Float>? = nil, history: ScreeningHistory
  ) -> EncodingCore {
    let options = EncodingOptions()
    if quantized == nil {
      quantized = QuantizedEncoder(
        weights, input, thresholds: thresholds, cpu: options.cpu, threads: Parallel.threads)
    }
    return EncodingCore(
      weights: weights, input: input, hasK: rule == .topk, ruleName: rule.rawValue,
      thresholds: thresholds,
      bounds: OverflowBounds(weights, norms: quantized.map { .init($0.rawNorms.pointer) }),
      quantized: quantized, history: history, options: options)
  }

  /// A selection rule, without its numbers.
  package enum Rule: String {
    case topk, threshold, relu
  }
}
