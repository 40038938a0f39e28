internal import CGranuleKernels
internal import GranuleEncoder
internal import GranuleObjective
internal import GranuleTensors
internal import GranuleThreads

// Which latents are active: a batch encoded with the weights as they are.
extension NestedStep {
  /// Below its threshold by half the bandwidth, a pre-activation still moves it.
  func lowerThresholds(panel: Int, _ objective: StepObjective) {
    guard let floors, let thresholds = weights.thresholds,
      let bandwidth = objective.objective.jumpReLU?.bandwidth
    else { return }
    let start = panel * LiveEncoder.panelLatents
    for latent in start..<min(start + LiveEncoder.panelLatents, latents) {
      floors.pointer[latent] = max(
        thresholds.pointer[latent] - Float(bandwidth / 2), 0)
    }
  }

  func encode(
    _ batch: FloatStorage, tokens: Int, _ objective: StepObjective, _ losses: inout Losses
  ) throws(EncodingError) -> SparseCodes {
    let rule: LiveEncoder.Rule
    switch objective.objective {
    case .topk, .batchtopk: rule = .topk
    case .relu: rule = .relu
    case .jumprelu:
      if !encoder.isPacked {
        for panel in 0...(latents - 1) / LiveEncoder.panelLatents {
          lowerThresholds(panel: panel, objective)
        }
      }
      rule = .threshold
    }
    let core = encoder.lend(
      rule, thresholds: floors.map { UnsafePointer($0.pointer) }, history: screeningHistory)
    var input = EncodeInput(
      activations: UnsafeBufferPointer(start: batch.pointer, count: tokens * dModel),
      granularity: latents)
    switch objective.objective {
    case .topk(let k):
      input.k = k
      return try core.encode([input], in: workspace)[0].get()
    case .batchtopk(let k, _):
      let distilled = try encodeCore(input.activations, objective)
      let budget = objective.budget(
        k: k, tokens: tokens, coreActive: distilled?.indices.count ?? 0)
      let (codes, threshold) = try core.encodeBatchTopK(
        input.activations, granularity: latents, k: k, count: budget.values,
        exempt: objective.coreLatents, in: workspace)
      // Where fewer than the budget are positive, all of them are kept.
      losses.leastKept = Double(threshold > 0 ? threshold : codes.values.min() ?? 0)
      guard let distilled else { return codes }
      losses.coreL0 = distilled.l0
      losses.isFloored = budget.isFloored
      return distilled.appendingLatents(of: codes)
    case .jumprelu, .relu: return try core.encode([input], in: workspace)[0].get()
    }
  }

  /// All positive latents of the distilled core, nil if there is none.
  func encodeCore(
    _ activations: UnsafeBufferPointer<Float>, _ objective: StepObjective
  ) throws(EncodingError) -> SparseCodes? {
    guard objective.coreLatents > 0 else { return nil }
    // Far more of a core are active than of the whole: what is known of one misleads about the other.
    let core = encoder.lend(.relu, history: coreScreeningHistory)
    let input = EncodeInput(activations: activations, granularity: objective.coreLatents)
    return try core.encode([input], in: workspace)[0].get()
  }

  /// Fills `values` with z; returns how many are active.
  func activeValues(_ codes: SparseCodes, _ objective: StepObjective) -> Int {
    let count = codes.indices.count
    if values.count < count {
      values = FloatStorage(count: count + count / 4)
      gradients = FloatStorage(count: values.count)
      products = FloatStorage(count: values.count)
      if weights.thresholds != nil { thresholdGradients = FloatStorage(count: values.count) }
    }
    return codes.values.withUnsafeBufferPointer { stored in
      guard objective.objective.kind == .jumprelu, let thresholds = weights.thresholds else {
        for i in 0..<count { values.pointer[i] = stored[i] }
        return count
      }
      var active = 0
      return codes.indices.withUnsafeBufferPointer { indices in
        for i in 0..<count {
          let isActive = stored[i] > thresholds.pointer[Int(indices[i])]
          values.pointer[i] = isActive ? stored[i] : 0
          active += isActive ? 1 : 0
        }
        return active
      }
    }
  }
}
