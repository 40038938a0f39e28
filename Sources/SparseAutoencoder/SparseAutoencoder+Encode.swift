internal import CKernels
internal import COpenBLAS
internal import Tensors

extension SparseAutoencoder {
  /// Encodes tokens at a granularity, on the calling thread.
  ///
  /// Pre-activations are screened by a matrix product, whose rounding depends on the shape of the
  /// batch and on the CPU; every latent that may be active within a proven bound of that rounding
  /// is scored again by `granule_dot`, in one fixed order of summation. So the answer, set and
  /// bits, is that of `ReferenceEncoder`, however tokens are batched.
  ///
  /// - Parameters:
  ///   - activations: [tokens, d_model] float32, row-major, raw.
  ///   - granularity: G, the number of latents to consider.
  ///   - k: for `topk` only; nil takes `defaultK(at:)`.
  ///   - workspace: the calling thread's.
  /// - Returns: the active latents of each token; only values > 0; of equal values the lower index.
  /// - Throws: `EncodingError`, for the first token concerned.
  public func encode(
    _ activations: UnsafeBufferPointer<Float>, tokens: Int, granularity: Int, k: Int? = nil,
    workspace: EncodeWorkspace
  ) throws(EncodingError) -> SparseCodes {
    precondition(activations.count == tokens * dModel)
    let k = try checkedK(k, granularity: granularity)
    var codes = SparseCodes()
    guard let start = activations.baseAddress, tokens > 0 else { return codes }
    let block = workspace.reserve(dModel: dModel, granularity: granularity, tokens: tokens)
    var slacks = [Float](repeating: 0, count: block)
    for first in stride(from: 0, to: tokens, by: block) {
      let count = min(block, tokens - first)
      for token in 0..<count {
        do throws(EncodingError) {
          let input = workspace.inputs.pointer + token * dModel
          let squaredNorm = try prepare(start + (first + token) * dModel, into: input)
          slacks[token] = try screeningSlack(squaredNorm: squaredNorm, granularity: granularity)
        } catch {
          throw error.shifted(by: first + token)
        }
        (workspace.scores.pointer + token * granularity)
          .update(from: encoderBias.pointer, count: granularity)
      }
      cblas_sgemm(
        CblasRowMajor, CblasNoTrans, CblasTrans, blasint(count), blasint(granularity),
        blasint(dModel), 1, workspace.inputs.pointer, blasint(dModel), encoderWeights.pointer,
        blasint(dModel), 1, workspace.scores.pointer, blasint(granularity))
      for token in 0..<count {
        select(
          token: token, granularity: granularity, k: k, slack: slacks[token], workspace: workspace,
          into: &codes)
      }
    }
    return codes
  }

  /// k for `topk`, 0 for the other rules.
  func checkedK(_ k: Int?, granularity: Int) throws(EncodingError) -> Int {
    guard (1...latents).contains(granularity) else {
      throw .granularity(granularity, latents: latents)
    }
    guard case .topk = selectionRule else {
      guard k == nil else { throw .unexpectedK(rule: selectionRule.name) }
      return 0
    }
    guard let k else { return defaultK(at: granularity) }
    guard (1...granularity).contains(k) else { throw .k(k, granularity: granularity) }
    return k
  }

  /// Writes the encoder's input, normalised and centred, and returns its squared norm.
  ///
  /// - Throws: `EncodingError` with token 0.
  func prepare(
    _ activation: UnsafePointer<Float>, into input: UnsafeMutablePointer<Float>
  ) throws(EncodingError) -> Float {
    // Also finite only if every element is: a NaN or an infinity survives every sum.
    let rawNorm = granule_dot(activation, activation, dModel)
    guard rawNorm.isFinite else {
      if let dimension = (0..<dModel).first(where: { !activation[$0].isFinite }) {
        throw .notFinite(token: 0, dimension: dimension)
      }
      throw .overflow(token: 0)
    }
    let transform = tokenTransform(activation)
    let bias = decoderBias.pointer
    switch (inputNormalization, subtractsDecoderBias) {
    case (.none, true): for i in 0..<dModel { input[i] = activation[i] - bias[i] }
    case (.none, false): input.update(from: activation, count: dModel)
    case (_, let subtracts):
      for i in 0..<dModel {
        let normalised = (activation[i] - transform.inputShift) * transform.inputScale
        input[i] = subtracts ? normalised - bias[i] : normalised
      }
    }
    let squaredNorm = granule_dot(input, input, dModel)
    guard squaredNorm.isFinite else { throw .overflow(token: 0) }
    return squaredNorm
  }

  /// What input normalisation does to one token.
  struct TokenTransform {
    /// Normalised input: (x − inputShift) · inputScale.
    var inputShift: Float = 0
    var inputScale: Float = 1
    /// Reconstruction in raw scale: outputScale · x̂ + outputShift.
    var outputScale: Float = 1
    var outputShift: Float = 0
  }

  func tokenTransform(_ activation: UnsafePointer<Float>) -> TokenTransform {
    switch inputNormalization {
    case .none: return TokenTransform()
    case .constantNormRescale:
      let norm = Double(granule_dot(activation, activation, dModel)).squareRoot()
      // A row of zeros has no direction to rescale: it stays zeros, in and out.
      guard norm > 0 else { return TokenTransform(inputScale: 0, outputScale: 0) }
      let factor = Double(dModel).squareRoot() / norm
      return TokenTransform(inputScale: Float(factor), outputScale: Float(1 / factor))
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
      return TokenTransform(
        inputShift: Float(mean), inputScale: Float(1 / (deviation + 1e-5)),
        outputScale: Float(deviation), outputShift: Float(mean))
    }
  }

  /// How far apart a pre-activation from a matrix product, in any order of summation, and the one
  /// from `granule_dot` may be (Higham, Accuracy and Stability of Numerical Algorithms, §3.1:
  /// |fl(w·x) − w·x| ≤ n u / (1 − n u) · ‖w‖‖x‖ for any order of n sums).
  private func screeningSlack(
    squaredNorm: Float, granularity: Int
  ) throws(EncodingError) -> Float {
    let norm = 1.01 * (Double(squaredNorm) + 1e-30).squareRoot()
    let magnitude =
      Double(encoderNormMax[granularity - 1]) * norm + Double(encoderBiasMax[granularity - 1])
    guard magnitude < Double(Float.greatestFiniteMagnitude) / 16 else { throw .overflow(token: 0) }
    let unit = 0x1p-24
    // The product, `granule_dot`, and the subtraction of the slack itself.
    let roundings = Double(dModel + 2) + Double(dModel / 64 + 9) + 2
    let relative = 1.01 * roundings * unit / (1 - roundings * unit)
    let underflow = Double(dModel) * Double(Float.leastNormalMagnitude)
    return Float(relative * magnitude + underflow).nextUp
  }

  private func select(
    token: Int, granularity: Int, k: Int, slack: Float, workspace: EncodeWorkspace,
    into codes: inout SparseCodes
  ) {
    let scores = workspace.scores.pointer + token * granularity
    let input = workspace.inputs.pointer + token * dModel
    let exact = workspace.exact.pointer
    workspace.withCandidates { candidates in
      var count: Int
      switch selectionRule {
      case .topk:
        let kth = granule_kth_largest_positive(scores, granularity, k, workspace.scratch.pointer)
        // At least k latents have exact values ≥ kth − slack, so each of the k best has, and its
        // screened value is another slack lower at most.
        let least = Float((Double(kth) - 2 * Double(slack)).nextDown).nextDown
        count = granule_indices_above(scores, granularity, least, candidates)
      case .threshold:
        count = granule_indices_above_each(
          scores, effectiveThresholds!.pointer, slack.nextUp, granularity, candidates)
      case .relu: count = granule_indices_above(scores, granularity, -slack, candidates)
      }
      for position in 0..<count {
        exact[position] = preActivation(of: Int(candidates[position]), input)
      }
      count = keepActive(
        candidates, exact, count: count, k: k, scratch: workspace.scratch.pointer)
      codes.append(
        indices: UnsafeBufferPointer(start: candidates, count: count),
        values: UnsafeBufferPointer(start: exact, count: count))
    }
  }

  /// h_j, in the one order of summation that every encoder shares.
  @inline(__always)
  func preActivation(of latent: Int, _ input: UnsafePointer<Float>) -> Float {
    granule_dot(encoderWeights.pointer + latent * dModel, input, dModel)
      + encoderBias.pointer[latent]
  }

  /// Drops, in place, what the selection rule does not keep of exactly scored candidates.
  private func keepActive(
    _ indices: UnsafeMutablePointer<UInt32>, _ values: UnsafeMutablePointer<Float>, count: Int,
    k: Int, scratch: UnsafeMutablePointer<Float>
  ) -> Int {
    guard count > 0 else { return 0 }
    var kept = 0
    func keep(_ position: Int) {
      indices[kept] = indices[position]
      values[kept] = values[position]
      kept += 1
    }
    switch selectionRule {
    case .topk:
      let kth = granule_kth_largest_positive(values, count, k, scratch)
      var above = 0
      for position in 0..<count where values[position] > kth { above += 1 }
      // Of those equal to the k-th the first in order; kth is 0 where fewer than k are positive.
      var equalLeft = kth > 0 ? k - above : 0
      for position in 0..<count {
        if values[position] > kth {
          keep(position)
        } else if values[position] == kth, equalLeft > 0 {
          equalLeft -= 1
          keep(position)
        }
      }
    case .threshold:
      let thresholds = effectiveThresholds!.pointer
      for position in 0..<count where values[position] > thresholds[Int(indices[position])] {
        keep(position)
      }
    case .relu: for position in 0..<count where values[position] > 0 { keep(position) }
    }
    return kept
  }
}
