internal import CGranuleKernels
internal import GranuleEncoder
internal import GranuleObjective
internal import GranuleTensors
internal import GranuleThreads

// What the active latents reconstruct, and what the residuals send back to them.
extension NestedStep {
  /// Decodes at every granularity, turns residuals into what they send back, and computes what each
  /// active latent's pre-activation and threshold receive.
  ///
  /// - Returns: Σ‖x − x̂_m‖² at each granularity, and the sum of the penalty's terms.
  func decode(
    _ codes: SparseCodes, _ batch: FloatStorage, _ objective: StepObjective, variance: Double,
    penalty: StepPenalty, keepingResiduals: Bool
  ) -> (squared: [Double], penalty: Double) {
    let (tokens, prefixes) = (codes.tokens, granularities.count)
    // ∂(w_m Σ‖x − x̂_m‖² / variance) / ∂x̂_m = scales[m] · (x̂_m − x)
    let scales = objective.weights.map { Float(2 * $0 / variance) }
    let prefixEnds = granularities.map { UInt32($0) }
    let squaredErrors = FloatStorage(count: tokens * prefixes)
    let penaltySums = FloatStorage(count: tokens)
    let (stripStride, slab) = (stripStride(tokens), slab(tokens))
    codes.indices.withUnsafeBufferPointer { indices in
      codes.rowOffsets.withUnsafeBufferPointer { rowOffsets in
        Parallel.forBlocks(tokens, size: Self.blockTokens) { thread, range in
          let rows = tokenRows[thread].pointer
          let sum = rows + prefixes * dModel
          for token in range {
            let input = batch.pointer + token * dModel
            let start = Int(rowOffsets[token])
            let count = Int(rowOffsets[token + 1]) - start
            let latents = indices.baseAddress.map { $0 + start }
            gk_nested_decode(
              weights.decoder.pointer, weights.decoderBias.pointer, dModel, latents,
              values.pointer + start, count, prefixEnds, prefixes, input, 1, 0, sum,
              squaredErrors.pointer + token * prefixes, rows, dModel)
            if keepingResiduals {
              let last = rows + (prefixes - 1) * dModel
              let residual = residuals.pointer + token * dModel
              for i in 0..<dModel { residual[i] = input[i] - last[i] }
            }
            gk_suffix_residuals(rows, prefixes, dModel, input, scales)
            gk_latent_products(
              weights.decoder.pointer, dModel, latents, count, blockOfLatent, rows,
              products.pointer + start)
            for block in 0..<prefixes {
              gk_cut_row(
                rows + block * dModel, dModel,
                returnedStrips.pointer + block * slab + token * Self.stripColumns, stripStride)
            }
            for i in 0..<dModel { sum[i] = input[i] - weights.decoderBias.pointer[i] }
            gk_cut_row(
              sum, dModel, inputStrips.pointer + token * Self.stripColumns, stripStride)
            penaltySums.pointer[token] = Float(
              sendBack(
                codes, start..<start + count, objective: objective, penalty: penalty))
          }
        }
      }
    }
    var sums = [Double](repeating: 0, count: prefixes)
    for token in 0..<tokens {
      for m in 0..<prefixes { sums[m] += Double(squaredErrors.pointer[token * prefixes + m]) }
    }
    return (sums, penaltySums.values.reduce(0.0) { $0 + Double($1) })
  }

  /// Turns the products of one token's latents into gradients of their pre-activations and thresholds;
  /// returns the sum of the penalty's terms.
  func sendBack(
    _ codes: SparseCodes, _ range: Range<Int>, objective: StepObjective, penalty: StepPenalty
  ) -> Double {
    if objective.objective.kind.hasK {
      (gradients.pointer + range.lowerBound).update(
        from: products.pointer + range.lowerBound, count: range.count)
      return 0
    }
    let bandwidth = objective.objective.jumpReLU?.bandwidth ?? 0
    var sum = 0.0
    for i in range {
      let value = values.pointer[i]
      let gradient = Double(products.pointer[i]) + penalty.gradient(value)
      gradients.pointer[i] = value > 0 ? Float(gradient) : 0
      if value > 0 { sum += penalty.term(value) }
      guard let thresholds = weights.thresholds else { continue }
      // Straight-through estimates by a rectangle of width ε (arXiv 2407.14435, section 3):
      // ∂z/∂θ = −θ/ε, ∂L0/∂θ = −1/ε, for |h − θ| < ε/2.
      let threshold = Double(thresholds.pointer[Int(codes.indices[i])])
      let isNear = abs(Double(codes.values[i]) - threshold) < bandwidth / 2
      thresholdGradients.pointer[i] =
        isNear ? Float(-(threshold * gradient + penalty.perThreshold) / bandwidth) : 0
    }
    return sum
  }

  func entryCodes(_ codes: SparseCodes, latentIndices: [UInt32]?) -> LatentEntries.Codes {
    LatentEntries.Codes(
      codes: codes, values: values.pointer, gradients: gradients.pointer,
      products: products.pointer,
      thresholds: weights.thresholds == nil || latentIndices != nil
        ? nil : UnsafePointer(thresholdGradients.pointer),
      latentIndices: latentIndices)
  }
}
