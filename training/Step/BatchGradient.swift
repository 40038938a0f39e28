internal import GranuleTensors

/// The gradient of one batch's loss, with what the optimiser needs to know of it.
package final class BatchGradient {
  /// As the loss has it: nothing clipped, nothing projected.
  package let weights: DictionaryWeights
  /// ⟨gradient of W_dec[j], W_dec[j]⟩, which a row of unit norm does not follow: [latents]
  let alongDecoder: FloatStorage
  /// 1 for latents whose rows are zeros, since they were active for no token: [latents]
  let isZero: UnsafeMutableBufferPointer<UInt8>
  /// ‖gradient‖² without what is along decoder rows.
  package internal(set) var squaredNorm = 0.0

  init(like weights: DictionaryWeights) {
    self.weights = DictionaryWeights(
      latents: weights.latents, dModel: weights.dModel, hasThresholds: weights.thresholds != nil)
    alongDecoder = FloatStorage(count: weights.latents)
    isZero = .allocate(capacity: weights.latents)
    isZero.initialize(repeating: 1)
  }

  deinit { isZero.deallocate() }
}
