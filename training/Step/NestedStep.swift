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
    /// 0 if none is dead.
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
    /// Whether the core alone has more than three quarters of k, so that the others were given a
    /// quarter beyond.
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
  static let stepsBetweenBalances = 256
  /// Tokens that a thread takes at a time.
  static let blockTokens = 32

  /// Of the last batch.
  package let gradient: BatchGradient
  /// Of the last batch: which latents were active, 1 or 0.
  package let wasActive: UnsafeMutableBufferPointer<UInt8>
  /// Of the last step.
  package private(set) var seconds = Seconds()

  let weights: DictionaryWeights
  let workspace = EncodeWorkspace(threads: Parallel.threads)
  let encoder: LiveEncoder
  let screeningHistory = ScreeningHistory()
  let coreScreeningHistory = ScreeningHistory()
  var stepsSinceBalance = 0
  /// What pre-activations must exceed to matter to thresholds or codes: [latents]
  let floors: FloatStorage?

  let entries: LatentEntries
  var auxiliaryEntries: LatentEntries?
  /// x − b_dec: [strips, tokens and some more, strip columns]
  var inputStrips = FloatStorage(count: 0)
  /// What residuals send back to each block of latents, the auxiliary loss's last:
  /// [blocks + 1, strips, tokens and some more, strip columns]
  var returnedStrips = FloatStorage(count: 0)
  /// [tokens, d_model]: of the full size, where the auxiliary loss needs them.
  var residuals = FloatStorage(count: 0)
  /// [nonzeros], each
  var values = FloatStorage(count: 0)
  var gradients = FloatStorage(count: 0)
  var products = FloatStorage(count: 0)
  var thresholdGradients = FloatStorage(count: 0)
  /// [threads, rows of one token's reconstructions and its sum]
  var tokenRows: [FloatStorage] = []
  /// [strips, latents]
  let squaredNorms: FloatStorage
  /// The first granularity that contains each latent: [latents]
  var blockOfLatent: [UInt32] = []
  var granularities: [Int] = []

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

  var dModel: Int { weights.dModel }
  var latents: Int { weights.latents }
  static let stripColumns = Int(gk_strip_columns)
  static func strips(_ dModel: Int) -> Int {
    (dModel + stripColumns - 1) / stripColumns
  }
  /// How many times a batch's memory a step takes for it: inputs in strips, residuals, and what each
  /// prefix and b_dec receive.
  package static func batches(granularities: Int) -> Int { granularities + 3 }

  /// Floats from one strip to the next: a few rows more than the tokens', since strips a power of two
  /// apart would share few lines of the caches.
  func stripStride(_ tokens: Int) -> Int { (tokens + 3) * Self.stripColumns }
  /// Floats of one block of `returnedStrips`.
  func slab(_ tokens: Int) -> Int { Self.strips(dModel) * stripStride(tokens) }

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

  func setGranularities(_ granularities: [Int]) {
    guard granularities != self.granularities else { return }
    self.granularities = granularities
    blockOfLatent.removeAll(keepingCapacity: true)
    for (block, granularity) in granularities.enumerated() {
      for _ in blockOfLatent.count..<granularity { blockOfLatent.append(UInt32(block)) }
    }
  }

  func reserve(tokens: Int, usesAuxiliary: Bool) {
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
}

extension NestedStep.Seconds {
  /// Adds what `body` takes to a part.
  mutating func timing<Result, Failure>(
    _ part: WritableKeyPath<Self, Double>, _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let clock = ContinuousClock()
    let start = clock.now
    defer { self[keyPath: part] += (clock.now - start) / .seconds(1) }
    return try body()
  }
}
