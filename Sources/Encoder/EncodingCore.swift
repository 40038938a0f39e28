internal import CGranuleKernels

/// How an encoder goes about its work. Codes never depend on it.
package struct EncodingOptions: Sendable {
  /// Which kernels run.
  package var cpu = EncoderCPU.current
  /// nil chooses by measurement.
  package var path: EncodePath?
  /// Safety margin of a guessed threshold, in multiples of its typical error. If it is too low,
  /// tokens are encoded twice.
  package var guessMargin: Float = 2.5
  /// nil guesses BatchTopK's threshold from a sample; otherwise the guess is this share of the
  /// sample's largest value.
  package var batchGuessFactor: Float?

  /// The usual options.
  package init() {}
}

/// How a block of tokens is encoded; the answer is the same.
package enum EncodePath: Sendable {
  /// Screened in 8 bits; what may be active is scored in float32.
  case screened
  /// Every latent is scored in float32.
  case exact
}

/// Everything that encoding reads, as a view. `SparseEncoder` owns what it shows and never changes
/// it; `LiveEncoder` lends the weights of a dictionary in training until they change again.
package struct EncodingCore: Sendable {
  let weights: EncodingWeights
  let input: InputTransform
  /// Whether the selection rule is `topk`.
  let hasK: Bool
  /// The selection rule's name.
  let ruleName: String
  /// max(θ_j, 0), the least pre-activation that is active: [latents]; nil unless the rule is
  /// `threshold`.
  nonisolated(unsafe) let thresholds: UnsafePointer<Float>?
  let bounds: OverflowBounds
  /// The encoder in 8 bits; nil if d_model is too large for one.
  let quantized: QuantizedEncoder?
  let history: ScreeningHistory
  let options: EncodingOptions

  var dModel: Int { weights.dModel }
  var latents: Int { weights.latents }
  var kernels: gk_cpu { options.cpu.kernels }

  /// The encoder in 8 bits, for blocks that are screened.
  var screening: QuantizedEncoder {
    guard let quantized else { preconditionFailure("only a quantised encoder screens") }
    return quantized
  }

  func fasterPath(granularity: Int, k: Int, tokens: Int) -> EncodePath {
    if let path = options.path { return path }
    guard let quantized else { return .exact }
    return history.fasterPath(quantized, granularity: granularity, k: k, tokens: tokens)
  }

  /// k for `topk`, 0 for the other rules.
  func checkedK(_ k: Int?, granularity: Int) throws(EncodingError) -> Int {
    guard (1...latents).contains(granularity) else {
      throw .granularity(granularity, latents: latents)
    }
    guard hasK else {
      guard k == nil else { throw .unexpectedK(rule: ruleName) }
      return 0
    }
    guard let k, (1...granularity).contains(k) else { throw .k(k ?? 0, granularity: granularity) }
    return k
  }

  /// Number of tokens in an input's activations.
  func tokens(_ input: EncodeInput) throws(EncodingError) -> Int {
    let (tokens, rest) = input.activations.count.quotientAndRemainder(dividingBy: dModel)
    guard rest == 0 else { throw .shape(values: input.activations.count, dModel: dModel) }
    return tokens
  }
}

/// Bounds that tell which activations would overflow float32.
struct OverflowBounds: Sendable {
  /// The largest ‖W_enc[j]‖ among the first G latents, at G − 1; rounded up.
  private let normMax: [Float]
  /// The largest |b_enc[j]| among the first G latents, at G − 1.
  private let biasMax: [Float]

  /// - Parameter norms: ‖W_enc[j]‖, rounded up: [latents]; nil computes them.
  init(_ weights: EncodingWeights, norms: UnsafePointer<Float>? = nil) {
    var normMax: [Float] = []
    var biasMax: [Float] = []
    normMax.reserveCapacity(weights.latents)
    biasMax.reserveCapacity(weights.latents)
    for latent in 0..<weights.latents {
      let row = weights.encoder + latent * weights.dModel
      // 1.01 covers the rounding of the sum, the floor what underflows in it.
      let norm =
        norms?[latent] ?? 1.01 * (gk_dot(row, row, weights.dModel) + 1e-30).squareRoot()
      normMax.append(max(normMax.last ?? 0, norm))
      biasMax.append(max(biasMax.last ?? 0, abs(weights.encoderBias[latent])))
    }
    self.normMax = normMax
    self.biasMax = biasMax
  }

  /// Number of values kept.
  var count: Int { normMax.count + biasMax.count }

  /// - Throws: `EncodingError.overflow` with token 0 if a pre-activation may overflow.
  func check(squaredNorm: Float, granularity: Int) throws(EncodingError) {
    let norm = 1.01 * (Double(squaredNorm) + 1e-30).squareRoot()
    let magnitude = Double(normMax[granularity - 1]) * norm + Double(biasMax[granularity - 1])
    guard magnitude < Double(Float.greatestFiniteMagnitude) / 16 else { throw .overflow(token: 0) }
  }
}
