internal import CGranuleKernels
package import GranuleEncoder
package import GranuleObjective
internal import GranuleStatistics
package import GranuleTensors
internal import GranuleThreads

/// The loss of a nested dictionary on a batch, its gradient, and the optimiser's step along it.
///
/// 1. Encode with the encoder's own screen; the answer is exact.
/// 2. Decode all granularities at once: the partial sums along a token's active latents are its nested
///    reconstructions (Progressive Coding for SAEs, eq. 8). A latent receives the sum of the
///    residuals of all prefixes that contain it.
/// 3. Sort the active latents by latent, and sum their gradients a strip of columns at a time.
/// 4. Adam, the decoder's norm and the encoder's quantisation in one visit to each latent's rows.
///
/// `ReferenceStep` is the same in plain float64. Results depend neither on the number of threads nor
/// on how the encoder was screened. Weights may be changed by `update` only.
package final class NestedStep {
  /// What a batch's loss is made of.
  package struct Losses {
    /// Σ‖x − x̂_m‖² / Σ‖x − x̄‖² at each granularity.
    package var fvu: [Double] = []
    /// Σ‖e − ê‖² / Σ‖e − ē‖², e the residual at full size and ê its reconstruction by dead latents;
    /// 0 where none is dead.
    package var auxiliary = 0.0
    /// The penalty, before its coefficient.
    package var penalty = 0.0
    /// All of it, weighted as `StepObjective` says.
    package var total = 0.0
    /// Mean number of active latents a token.
    package var l0 = 0.0
    /// The least value that BatchTopK kept, beside a core's; nil for other objectives.
    package var leastKept: Double?
    /// Mean number of active latents of the core a token.
    package var coreL0 = 0.0
    /// Whether the core alone has so many that the others were given a quarter of k.
    package var isFloored = false
  }

  /// Seconds that the parts of the last step took.
  package struct Seconds {
    package var encode = 0.0
    package var decode = 0.0
    package var auxiliary = 0.0
    package var gradients = 0.0
    package var adam = 0.0
    /// Of Adam's pass: the encoder's quantisation, a mean over threads.
    package var repack = 0.0
  }

  /// Steps after which the quantisation is balanced anew: weights have turned by then.
  private static let stepsBetweenBalances = 256
  /// Tokens that a thread takes at a time.
  private static let blockTokens = 32

  /// Of the last batch.
  package let gradient: BatchGradient
  /// Of the last batch: which latents were active, 1 or 0.
  package let wasActive: UnsafeMutableBufferPointer<UInt8>
  /// Of the last step.
  package private(set) var seconds = Seconds()

  private let weights: DictionaryWeights
  private let workspace = EncodeWorkspace(threads: Parallel.threads)
  private let encoder: LiveEncoder
  private let screeningHistory = ScreeningHistory()
  private let coreScreeningHistory = ScreeningHistory()
  private var stepsSinceBalance = 0
  /// What pre-activations must exceed to matter to thresholds or codes: [latents]
  private let floors: FloatStorage?

  private let entries: LatentEntries
  private var auxiliaryEntries: LatentEntries?
  /// x − b_dec: [strips, tokens and some more, strip columns]
  private var inputStrips = FloatStorage(count: 0)
  /// What residuals send back to each block of latents, the auxiliary loss's last:
  /// [blocks + 1, strips, tokens and some more, strip columns]
  private var returnedStrips = FloatStorage(count: 0)
  /// [tokens, d_model]: of the full size, where the auxiliary loss needs them.
  private var residuals = FloatStorage(count: 0)
  /// [nonzeros], each
  private var values = FloatStorage(count: 0)
  private var gradients = FloatStorage(count: 0)
  private var products = FloatStorage(count: 0)
  private var thresholdGradients = FloatStorage(count: 0)
  /// [threads, rows of one token's reconstructions and its sum]
  private var tokenRows: [FloatStorage] = []
  /// [strips, latents]
  private let squaredNorms: FloatStorage
  /// The first granularity that contains each latent: [latents]
  private var blockOfLatent: [UInt32] = []
  private var granularities: [Int] = []

  /// A step for `weights`.
  ///
  /// - Parameter activationDeviation: standard deviation of the batches' activations, [d_model], for
  ///   the encoder's speed only; nil if unknown.
  package init(weights: DictionaryWeights, activationDeviation: [Float]? = nil) {
    self.weights = weights
    encoder = LiveEncoder(weights.lent, activationDeviation: activationDeviation)
    gradient = BatchGradient(like: weights)
    wasActive = .allocate(capacity: weights.latents)
    wasActive.initialize(repeating: 0)
    entries = LatentEntries(latents: weights.latents)
    floors = weights.thresholds.map { FloatStorage(count: $0.count) }
    squaredNorms = FloatStorage(count: Self.strips(weights.dModel) * weights.latents)
  }

  deinit { wasActive.deallocate() }

  private var dModel: Int { weights.dModel }
  private var latents: Int { weights.latents }
  private static let stripColumns = Int(gk_strip_columns)
  private static func strips(_ dModel: Int) -> Int {
    (dModel + stripColumns - 1) / stripColumns
  }
  /// How many times a batch's memory a step takes for it: inputs in strips, residuals, and what each
  /// prefix and b_dec receive.
  package static func batches(granularities: Int) -> Int { granularities + 3 }

  /// Floats from one strip to the next: a few rows more than the tokens', since strips a power of two
  /// apart would share few lines of the caches.
  private func stripStride(_ tokens: Int) -> Int { (tokens + 3) * Self.stripColumns }
  /// Floats of one block of `returnedStrips`.
  private func slab(_ tokens: Int) -> Int { Self.strips(dModel) * stripStride(tokens) }

  /// Computes the losses of `batch`, and leaves their gradient in `gradient`.
  ///
  /// - Parameters:
  ///   - batch: [tokens, d_model] float32.
  ///   - dead: the latents that the auxiliary loss may use, ascending.
  /// - Throws: `EncodingError` for the first token that cannot be encoded.
  package func run(
    batch: FloatStorage, dead: [Int], objective: StepObjective
  ) throws(EncodingError) -> Losses {
    precondition(objective.granularities.last == latents)
    let tokens = batch.count / dModel
    seconds = Seconds()
    setGranularities(objective.granularities)
    let usesAuxiliary = !dead.isEmpty && objective.auxiliaryCoefficient > 0
    reserve(tokens: tokens, usesAuxiliary: usesAuxiliary)
    let variance = ColumnMoments.variance(of: batch.pointer, rows: tokens, columns: dModel)

    var losses = Losses()
    let codes = try seconds.timing(\.encode) { () throws(EncodingError) in
      try encode(batch, tokens: tokens, objective, &losses)
    }
    let active = activeValues(codes, objective)
    losses.l0 = Double(active) / Double(max(tokens, 1))
    let penalty = StepPenalty(objective, tokens: tokens, dModel: dModel, l0: losses.l0)
    let errors = seconds.timing(\.decode) {
      decode(
        codes, batch, objective, variance: variance, penalty: penalty,
        keepingResiduals: usesAuxiliary)
    }
    losses.fvu = errors.squared.map { $0 / variance }
    losses.penalty = penalty.loss(sum: errors.penalty)
    if usesAuxiliary {
      losses.auxiliary = try seconds.timing(\.auxiliary) { () throws(EncodingError) in
        try reviveDead(batch, tokens: tokens, dead: dead, objective)
      }
    }
    losses.total =
      zip(losses.fvu, objective.weights).reduce(0) { $0 + $1.0 * $1.1 }
      + objective.auxiliaryCoefficient * losses.auxiliary
      + objective.sparsityCoefficient * losses.penalty
    seconds.timing(\.gradients) {
      entries.fill(entryCodes(codes, latentIndices: nil))
      accumulate(
        tokens: tokens, auxiliary: usesAuxiliary ? auxiliaryEntries : nil,
        frozenEncoders: objective.frozenEncoders)
    }
    return losses
  }

  /// Takes a step of Adam along `gradient`.
  ///
  /// - Returns: the gradient's norm before clipping.
  package func update(
    _ optimizer: inout AdamOptimizer, _ step: AdamOptimizer.Step, objective: StepObjective
  ) -> Double {
    stepsSinceBalance += 1
    if stepsSinceBalance >= Self.stepsBetweenBalances {
      encoder.rebalance()
      stepsSinceBalance = 0
    }
    let packSeconds = FloatStorage(count: 16 * Parallel.threads)
    let norm = seconds.timing(\.adam) {
      let norm = optimizer.step(
        weights, gradient: gradient, step, frozenEncoders: objective.frozenEncoders
      ) { thread, panel in
        lowerThresholds(panel: panel, objective)
        guard encoder.isPacked else { return }
        let clock = ContinuousClock()
        let start = clock.now
        encoder.pack(panel: panel)
        packSeconds.pointer[16 * thread] += Float((clock.now - start) / .seconds(1))
      }
      encoder.finish(thresholds: floors.map { UnsafePointer($0.pointer) })
      return norm
    }
    seconds.repack = Double(packSeconds.values.reduce(0, +)) / Double(Parallel.threads)
    return norm
  }

  // MARK: Encoding

  private func setGranularities(_ granularities: [Int]) {
    guard granularities != self.granularities else { return }
    self.granularities = granularities
    blockOfLatent.removeAll(keepingCapacity: true)
    for (block, granularity) in granularities.enumerated() {
      for _ in blockOfLatent.count..<granularity { blockOfLatent.append(UInt32(block)) }
    }
  }

  private func reserve(tokens: Int, usesAuxiliary: Bool) {
    let slab = slab(tokens)
    if inputStrips.count < slab { inputStrips = FloatStorage(count: slab) }
    let returned = (granularities.count + 1) * slab
    if returnedStrips.count < returned { returnedStrips = FloatStorage(count: returned) }
    if usesAuxiliary, residuals.count < tokens * dModel {
      residuals = FloatStorage(count: tokens * dModel)
    }
    let rows = (granularities.count + 1) * dModel
    if tokenRows.first.map({ $0.count < rows }) ?? true {
      tokenRows = (0..<Parallel.threads).map { _ in FloatStorage(count: rows) }
    }
  }

  /// Below its threshold by half the bandwidth, a pre-activation still moves it.
  private func lowerThresholds(panel: Int, _ objective: StepObjective) {
    guard let floors, let thresholds = weights.thresholds else { return }
    let start = panel * LiveEncoder.panelLatents
    for latent in start..<min(start + LiveEncoder.panelLatents, latents) {
      floors.pointer[latent] = max(
        thresholds.pointer[latent] - Float(objective.bandwidth / 2), 0)
    }
  }

  private func encode(
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
    case .topk:
      input.k = objective.k
      return try core.encode([input], in: workspace)[0].get()
    case .batchtopk:
      let distilled = try encodeCore(input.activations, objective)
      let budget = objective.budget(tokens: tokens, coreActive: distilled?.indices.count ?? 0)
      let (codes, threshold) = try core.encodeBatchTopK(
        input.activations, granularity: latents, k: objective.k, count: budget.values,
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
  private func encodeCore(
    _ activations: UnsafeBufferPointer<Float>, _ objective: StepObjective
  ) throws(EncodingError) -> SparseCodes? {
    guard objective.coreLatents > 0 else { return nil }
    // Far more of a core are active than of the whole: what is known of one misleads about the other.
    let core = encoder.lend(.relu, history: coreScreeningHistory)
    let input = EncodeInput(activations: activations, granularity: objective.coreLatents)
    return try core.encode([input], in: workspace)[0].get()
  }

  /// Fills `values` with z; returns how many are active.
  private func activeValues(_ codes: SparseCodes, _ objective: StepObjective) -> Int {
    let count = codes.indices.count
    if values.count < count {
      values = FloatStorage(count: count + count / 4)
      gradients = FloatStorage(count: values.count)
      products = FloatStorage(count: values.count)
      if weights.thresholds != nil { thresholdGradients = FloatStorage(count: values.count) }
    }
    return codes.values.withUnsafeBufferPointer { stored in
      guard objective.objective == .jumprelu, let thresholds = weights.thresholds else {
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

  // MARK: Decoding

  /// Decodes at every granularity, turns residuals into what they send back, and computes what each
  /// active latent's pre-activation and threshold receive.
  ///
  /// - Returns: Σ‖x − x̂_m‖² at each granularity, and the sum of the penalty's terms.
  private func decode(
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
  private func sendBack(
    _ codes: SparseCodes, _ range: Range<Int>, objective: StepObjective, penalty: StepPenalty
  ) -> Double {
    if objective.objective.hasK {
      (gradients.pointer + range.lowerBound).update(
        from: products.pointer + range.lowerBound, count: range.count)
      return 0
    }
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
      let isNear = abs(Double(codes.values[i]) - threshold) < objective.bandwidth / 2
      let perL0 = penalty.isL0 ? penalty.weight : 0
      thresholdGradients.pointer[i] =
        isNear ? Float(-(threshold * gradient + perL0) / objective.bandwidth) : 0
    }
    return sum
  }

  private func entryCodes(_ codes: SparseCodes, latentIndices: [UInt32]?) -> LatentEntries.Codes {
    LatentEntries.Codes(
      codes: codes, values: values.pointer, gradients: gradients.pointer,
      products: products.pointer,
      thresholds: weights.thresholds == nil || latentIndices != nil
        ? nil : UnsafePointer(thresholdGradients.pointer),
      latentIndices: latentIndices)
  }

  // MARK: Dead latents

  /// Reconstructs the full size's residual, held constant, by the best of the dead latents, without
  /// b_dec; the gradient reaches their encoder and decoder.
  ///
  /// - Returns: the auxiliary loss.
  private func reviveDead(
    _ batch: FloatStorage, tokens: Int, dead: [Int], _ objective: StepObjective
  ) throws(EncodingError) -> Double {
    let variance = ColumnMoments.variance(of: residuals.pointer, rows: tokens, columns: dModel)
    var scale = Float(2 * objective.auxiliaryCoefficient / variance)
    let deadWeights = DictionaryWeights(latents: dead.count, dModel: dModel)
    Parallel.forRanges(dead.count) { _, range in
      for row in range {
        let latent = dead[row]
        (deadWeights.encoder.pointer + row * dModel)
          .update(from: weights.encoder.pointer + latent * dModel, count: dModel)
        (deadWeights.decoder.pointer + row * dModel)
          .update(from: weights.decoder.pointer + latent * dModel, count: dModel)
        deadWeights.encoderBias.pointer[row] = weights.encoderBias.pointer[latent]
      }
    }
    deadWeights.decoderBias.pointer.update(from: weights.decoderBias.pointer, count: dModel)
    let k = objective.auxiliaryK(dModel: dModel, dead: dead.count)
    let input = EncodeInput(
      activations: UnsafeBufferPointer(start: batch.pointer, count: tokens * dModel),
      granularity: dead.count, k: k)
    let codes = try LiveEncoder(deadWeights.lent).lend(.topk, history: ScreeningHistory())
      .encode([input], in: workspace)[0].get()

    let noBias = FloatStorage(count: dModel)
    let noBlocks = [UInt32](repeating: 0, count: dead.count)
    let squaredErrors = FloatStorage(count: tokens)
    let products = FloatStorage(count: codes.indices.count)
    let (stripStride, slab) = (stripStride(tokens), slab(tokens))
    codes.indices.withUnsafeBufferPointer { indices in
      codes.values.withUnsafeBufferPointer { values in
        codes.rowOffsets.withUnsafeBufferPointer { rowOffsets in
          Parallel.forBlocks(tokens, size: Self.blockTokens) { thread, range in
            let row = tokenRows[thread].pointer
            let sum = row + dModel
            for token in range {
              let start = Int(rowOffsets[token])
              let count = Int(rowOffsets[token + 1]) - start
              let latents = indices.baseAddress.map { $0 + start }
              var all = UInt32(dead.count)
              let residual = residuals.pointer + token * dModel
              gk_nested_decode(
                deadWeights.decoder.pointer, noBias.pointer, dModel, latents,
                values.baseAddress.map { $0 + start }, count, &all, 1, residual, 1, 0, sum,
                squaredErrors.pointer + token, row, dModel)
              gk_suffix_residuals(row, 1, dModel, residual, &scale)
              gk_latent_products(
                deadWeights.decoder.pointer, dModel, latents, count, noBlocks, row,
                products.pointer + start)
              gk_cut_row(
                row, dModel,
                returnedStrips.pointer + granularities.count * slab + token * Self.stripColumns,
                stripStride)
            }
          }
        }
      }
    }
    let sorted = auxiliaryEntries ?? LatentEntries(latents: latents)
    auxiliaryEntries = sorted
    codes.values.withUnsafeBufferPointer { values in
      guard let values = values.baseAddress else { return }
      sorted.fill(
        LatentEntries.Codes(
          codes: codes, values: values, gradients: products.pointer, products: products.pointer,
          thresholds: nil, latentIndices: dead.map { UInt32($0) }))
    }
    return squaredErrors.values.reduce(0.0) { $0 + Double($1) } / variance
  }

  // MARK: Gradients

  private func accumulate(tokens: Int, auxiliary: LatentEntries?, frozenEncoders: Int) {
    let latents = latents
    let strips = Self.strips(dModel)
    let slab = slab(tokens)
    sumOverLatents(auxiliary)
    blockOfLatent.withUnsafeBufferPointer { blocks in
      let problem = gk_gradients(
        latents: latents, d_model: dModel, inputs: inputStrips.pointer,
        returned: returnedStrips.pointer, slab_stride: slab,
        entries: (
          entries.kernelEntries, auxiliary?.kernelEntries ?? gk_entries()
        ), blocks: blocks.baseAddress, auxiliary_block: granularities.count,
        is_zero: gradient.isZero.baseAddress, encoder: gradient.weights.encoder.pointer,
        decoder: gradient.weights.decoder.pointer, squared_norms: squaredNorms.pointer)
      let chunks = min(4, latents)
      Parallel.forBlocks(strips * chunks, size: 1) { _, range in
        var problem = problem
        for task in range {
          let (strip, chunk) = task.quotientAndRemainder(dividingBy: chunks)
          gk_strip_gradients(
            &problem, strip, latents * chunk / chunks, latents * (chunk + 1) / chunks)
        }
      }
    }
    for latent in 0..<latents {
      let isActive =
        !entries.range(of: latent).isEmpty || !(auxiliary?.range(of: latent).isEmpty ?? true)
      gradient.isZero[latent] = isActive ? 0 : 1
    }
    sumDecoderBias(tokens: tokens)
    gradient.weights.encoder.pointer.update(repeating: 0, count: frozenEncoders * dModel)
    gradient.squaredNorm = squaredNorm(frozenEncoders: frozenEncoders)
  }

  /// Sums over each latent's entries that need no rows.
  private func sumOverLatents(_ auxiliary: LatentEntries?) {
    let gradient = gradient
    let thresholds = gradient.weights.thresholds
    Parallel.forBlocks(latents, size: 256) { _, range in
      for latent in range {
        var (bias, along, threshold): (Float, Float, Float) = (0, 0, 0)
        var isActive: UInt8 = 0
        for i in entries.range(of: latent) {
          bias += entries.entries[i].gradient
          along += entries.entries[i].value * entries.details[i].product
          threshold += entries.details[i].threshold
          if entries.entries[i].value > 0 { isActive = 1 }
        }
        if let auxiliary {
          for i in auxiliary.range(of: latent) {
            bias += auxiliary.entries[i].gradient
            along += auxiliary.entries[i].value * auxiliary.details[i].product
          }
        }
        wasActive[latent] = isActive
        gradient.weights.encoderBias.pointer[latent] = bias
        gradient.alongDecoder.pointer[latent] = along
        thresholds?.pointer[latent] = threshold
      }
    }
  }

  /// b_dec is in every reconstruction, and with the other sign in every encoder input.
  private func sumDecoderBias(tokens: Int) {
    let strips = Self.strips(dModel)
    let sums = FloatStorage(count: strips * Self.stripColumns)
    for strip in 0..<strips {
      gk_strip_sum(
        returnedStrips.pointer + strip * stripStride(tokens), tokens,
        sums.pointer + strip * Self.stripColumns)
    }
    let blockRows = 256
    let blocks = (latents + blockRows - 1) / blockRows
    let partial = FloatStorage(count: blocks * dModel)
    Parallel.forBlocks(blocks, size: 1) { _, range in
      var rows: [UInt32] = []
      var biases: [Float] = []
      for block in range {
        rows.removeAll(keepingCapacity: true)
        biases.removeAll(keepingCapacity: true)
        for latent in block * blockRows..<min((block + 1) * blockRows, latents)
        where gradient.isZero[latent] == 0 {
          rows.append(UInt32(latent))
          biases.append(gradient.weights.encoderBias.pointer[latent])
        }
        gk_weighted_rows_sum(
          weights.encoder.pointer, dModel, rows, biases, rows.count,
          partial.pointer + block * dModel)
      }
    }
    for i in 0..<dModel {
      var sum = sums.pointer[i]
      for block in 0..<blocks { sum -= partial.pointer[block * dModel + i] }
      gradient.weights.decoderBias.pointer[i] = sum
    }
  }

  private func squaredNorm(frozenEncoders: Int) -> Double {
    let strips = Self.strips(dModel)
    var total = 0.0
    for latent in 0..<latents where gradient.isZero[latent] == 0 {
      var rows = 0.0
      if latent < frozenEncoders {
        // The strips' sums have the encoder's row in them, which is not followed.
        let row = gradient.weights.decoder.pointer + latent * dModel
        rows = Double(gk_dot(row, row, dModel))
      } else {
        for strip in 0..<strips { rows += Double(squaredNorms.pointer[strip * latents + latent]) }
      }
      let along = Double(gradient.alongDecoder.pointer[latent])
      let bias = Double(gradient.weights.encoderBias.pointer[latent])
      let threshold = Double(gradient.weights.thresholds?.pointer[latent] ?? 0)
      total += max(rows - along * along, 0) + bias * bias + threshold * threshold
    }
    let bias = gradient.weights.decoderBias.pointer
    return total + Double(gk_dot(bias, bias, dModel))
  }
}

extension NestedStep.Seconds {
  /// Adds what `body` takes to a part.
  fileprivate mutating func timing<Result, Failure>(
    _ part: WritableKeyPath<Self, Double>, _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let clock = ContinuousClock()
    let start = clock.now
    defer { self[keyPath: part] += (clock.now - start) / .seconds(1) }
    return try body()
  }
}
