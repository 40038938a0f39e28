internal import CGranuleKernels
internal import Glibc
internal import GranuleEncoder
internal import GranuleTensors
internal import GranuleThreads

/// Adam with decoupled weight decay (AdamW, as torch.optim takes it: dense, so that latents without a
/// gradient move by their moments too) on a dictionary's weights, whose decoder rows stay unit
/// vectors and whose thresholds, which do not decay, stay at least 0.
package struct AdamOptimizer {
  static let epsilon = 1e-8

  /// What one step is taken with.
  package struct Step {
    package var learningRate: Double
    package var weightDecay: Double
    /// Gradients are scaled so that their norm is at most this; 0: never.
    package var gradientNormMax: Double
    /// How much of its first moment each gradient leaves, and of its second.
    package var (beta1, beta2) = (0.9, 0.999)
    /// Thresholds are multiplied by this, too.
    package var thresholdFactor = 1.0

    package init(learningRate: Double, weightDecay: Double, gradientNormMax: Double) {
      self.learningRate = learningRate
      self.weightDecay = weightDecay
      self.gradientNormMax = gradientNormMax
    }
  }

  package let firstMoments: DictionaryWeights
  package let secondMoments: DictionaryWeights
  /// Steps taken.
  package var steps = 0

  package init(latents: Int, dModel: Int, hasThresholds: Bool = false) {
    firstMoments = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
    secondMoments = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
  }

  /// Takes one step.
  ///
  /// The norm that clipping needs is known beforehand from sums that the gradient's kernels make in
  /// passing, so that a latent's rows are read and written once.
  ///
  /// - Parameters:
  ///   - frozenEncoders: number of first latents whose encoder rows stay as they are.
  ///   - afterPanel: called for each panel of latents (`LiveEncoder.panelLatents`), on the thread
  ///     that has just changed its weights.
  /// - Returns: the gradient's norm before it was scaled, without what is along decoder rows.
  package mutating func step(
    _ weights: DictionaryWeights, gradient: BatchGradient, _ step: Step,
    frozenEncoders: Int = 0, afterPanel: (_ thread: Int, _ panel: Int) -> Void = { _, _ in }
  ) -> Double {
    let (dModel, latents) = (weights.dModel, weights.latents)
    let norm = gradient.squaredNorm.squareRoot()
    steps += 1
    var constants = gk_adam_step(
      learning_rate: Float(step.learningRate), beta1: Float(step.beta1), beta2: Float(step.beta2),
      epsilon: Float(Self.epsilon), bias_correction1: Float(1 - pow(step.beta1, Double(steps))),
      bias_correction2: Float(1 - pow(step.beta2, Double(steps))),
      weight_decay: Float(step.weightDecay),
      gradient_scale: step.gradientNormMax > 0 && norm > step.gradientNormMax
        ? Float(step.gradientNormMax / norm) : 1)
    var undecayed = constants
    undecayed.weight_decay = 0
    let (first, second) = (firstMoments, secondMoments)
    let gradients = gradient.weights
    let panels = (latents + LiveEncoder.panelLatents - 1) / LiveEncoder.panelLatents
    Parallel.forBlocks(panels, size: max(1, min(4, panels / Parallel.threads))) { thread, range in
      var (constants, undecayed) = (constants, undecayed)
      for panel in range {
        let start = panel * LiveEncoder.panelLatents
        let end = min(start + LiveEncoder.panelLatents, latents)
        for latent in start..<end {
          let row = latent * dModel
          let hasGradient = gradient.isZero[latent] == 0
          if latent >= frozenEncoders {
            gk_adam(
              weights.encoder.pointer + row, first.encoder.pointer + row,
              second.encoder.pointer + row, hasGradient ? gradients.encoder.pointer + row : nil,
              dModel, &constants)
          }
          gk_adam_unit_row(
            weights.decoder.pointer + row, first.decoder.pointer + row,
            second.decoder.pointer + row, hasGradient ? gradients.decoder.pointer + row : nil,
            gradient.alongDecoder.pointer[latent], dModel, &constants)
        }
        gk_adam(
          weights.encoderBias.pointer + start, first.encoderBias.pointer + start,
          second.encoderBias.pointer + start, gradients.encoderBias.pointer + start, end - start,
          &constants)
        if let thresholds = weights.thresholds, let firstThresholds = first.thresholds,
          let secondThresholds = second.thresholds, let thresholdGradients = gradients.thresholds
        {
          gk_adam(
            thresholds.pointer + start, firstThresholds.pointer + start,
            secondThresholds.pointer + start, thresholdGradients.pointer + start, end - start,
            &undecayed)
          for latent in start..<end {
            thresholds.pointer[latent] = max(
              thresholds.pointer[latent] * Float(step.thresholdFactor), 0)
          }
        }
        afterPanel(thread, panel)
      }
    }
    gk_adam(
      weights.decoderBias.pointer, first.decoderBias.pointer, second.decoderBias.pointer,
      gradients.decoderBias.pointer, dModel, &constants)
    return norm
  }
}
