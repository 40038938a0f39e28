import GranuleCalls
import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import Synchronization

/// Encodes tokens at one granularity after another.
final class EncodeJob: Job {
  /// One granularity to encode at; `k` is 0 if the selection rule has none.
  struct Step: Sendable {
    let granularity: Int
    let k: Int
  }

  /// What to encode at.
  struct Plan: Sendable {
    let tokens: Int
    /// What was asked for, ascending.
    let steps: [Step]
    /// What may take the place of a single step under load, the largest first.
    let fallbacks: [Step]

    /// The largest k of any step; 0 if the selection rule has none.
    var kMax: Int { steps.reduce(0) { max($0, $1.k) } }
  }

  private struct State {
    /// The step that is being computed, of `steps`.
    var number = 0
    /// What is computed, once that is decided: the step or a fallback.
    var computed: Step?
    /// The codes of each piece.
    var pieces: [SparseCodes?] = []
    /// ‖x − x̂‖² of each token; pieces write ranges of their own.
    var squaredErrors = MemoryBlock(byteCount: 0)
    /// x̂ of each token, if it is wanted; pieces write ranges of their own.
    var reconstruction: MemoryBlock?
  }

  let call: AdmittedCall
  let stage: StageProgress
  private let request: EncodeRequest
  private let plan: Plan
  private let state = Mutex(State())
  /// Σ‖x − mean‖² of each block of tokens; pieces start at whole blocks and write blocks of their
  /// own.
  private let variances: MemoryBlock
  /// What each step leaves for the next, if there are several; pieces encode ranges of their own.
  private let progress: EncodeProgress?

  init(_ call: AdmittedCall, _ request: EncodeRequest, _ plan: Plan) {
    self.call = call
    self.request = request
    self.plan = plan
    let tokens = plan.tokens
    stage = StageProgress(since: call.arrival)
    progress = plan.steps.count > 1 ? EncodeProgress(tokens: tokens, kMax: plan.kMax) : nil
    let blocks = (tokens + Self.blockTokens - 1) / Self.blockTokens
    variances = MemoryBlock(byteCount: blocks * MemoryLayout<Double>.size)
  }

  private static let blockTokens = Scheduler<any Job>.blockTokens

  var tokens: Int { plan.tokens }
  var bytesPerToken: Int { call.version.dictionary.dModel * MemoryLayout<Float>.size }

  // MARK: Computing

  func begin(_ piece: Piece, pressure: Int) -> EncodeRows? {
    let step = state.withLock { state in
      if let computed = state.computed { return computed }
      let isShed = pressure > 0 && !plan.fallbacks.isEmpty
      let step =
        isShed
        ? plan.fallbacks[min(pressure, plan.fallbacks.count) - 1] : plan.steps[state.number]
      state.computed = step
      state.pieces = Array(repeating: nil, count: piece.count)
      // Of this stage alone: an embedded caller keeps what it was answered before.
      state.squaredErrors = MemoryBlock(byteCount: tokens * MemoryLayout<Float>.size)
      if request.returnReconstruction {
        state.reconstruction = MemoryBlock(byteCount: tokens * bytesPerToken)
      }
      return step
    }
    return EncodeRows(
      job: self, piece: piece, step: step, bytes: rows(piece.tokens),
      type: request.activations.type)
  }

  /// The bytes of some tokens' activations, as they arrived; they live as long as the request.
  private func rows(_ tokens: Range<Int>) -> UnsafeRawBufferPointer {
    guard !tokens.isEmpty else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    let activations = request.activations
    let rowBytes = Int(activations.shape[1]) * activations.type.byteCount
    return activations.data.withBytes {
      UnsafeRawBufferPointer(
        rebasing: $0[tokens.lowerBound * rowBytes..<tokens.upperBound * rowBytes])
    }
  }

  /// What to encode, at the step that was decided.
  func input(_ rows: EncodeRows, _ activations: UnsafeBufferPointer<Float>) -> EncodeInput {
    var input = EncodeInput(
      activations: activations, granularity: rows.step.granularity,
      k: rows.step.k == 0 ? nil : rows.step.k)
    input.progress = progress
    input.firstToken = rows.piece.tokens.lowerBound
    return input
  }

  /// Takes the codes of rows, and measures what they leave of the activations: [tokens, d_model].
  func take(
    _ codes: SparseCodes, of rows: EncodeRows, _ activations: UnsafeBufferPointer<Float>
  ) {
    let stage = state.withLock { state in
      if !request.omitCodes { state.pieces[rows.piece.index] = codes }
      return state
    }
    let tokens = rows.piece.tokens
    guard !tokens.isEmpty,
      let errors = stage.squaredErrors.bytes.bindMemory(to: Float.self).baseAddress
    else { return }
    let dictionary = call.version.dictionary
    let dModel = dictionary.dModel
    call.version.encoder.nestedDecode(
      codes, activations: activations, granularities: [rows.step.granularity],
      squaredErrors: errors + tokens.lowerBound,
      reconstructions: stage.reconstruction?.bytes.bindMemory(to: Float.self).baseAddress.map {
        $0 + tokens.lowerBound * dModel
      })
    // The variance is the same at every step.
    guard stage.number == 0 else { return }
    let blocks = variances.bytes.bindMemory(to: Double.self)
    for start in stride(from: tokens.lowerBound, to: tokens.upperBound, by: Self.blockTokens) {
      let end = min(start + Self.blockTokens, tokens.upperBound)
      let first = (start - tokens.lowerBound) * dModel
      blocks[start / Self.blockTokens] =
        dictionary.totalVariance(
          of: UnsafeBufferPointer(
            rebasing: activations[first..<first + (end - start) * dModel])) ?? 0
    }
  }

  // MARK: Answering

  func answer(_ stage: StageProgress.Stage, pressure: Int) -> StageAnswer {
    let now = ContinuousClock.now
    let done = state.withLock { state in
      defer { state = State(number: state.number + 1) }
      return state
    }
    guard let step = done.computed else { preconditionFailure("a stage that ends has begun") }
    self.stage.next(now)
    let isShed = step.granularity < plan.steps[done.number].granularity
    let fvu = fvu(done.squaredErrors)
    let stopReason = stopReason(done.number, isShed, fvu, pressure)
    let (queue, compute) = stage.nanoseconds(until: now)
    let version = call.version
    let encoded = EncodedStage(
      model: request.model, version: version.version, granularity: step.granularity, k: step.k,
      pieces: request.omitCodes ? nil : done.pieces.compactMap { $0 },
      reconstruction: done.reconstruction.map {
        PackedTensor($0, tokens: tokens, width: version.dictionary.dModel)
      },
      fvu: fvu, squaredErrors: SharedBytes(done.squaredErrors), stopReason: stopReason,
      queueNanoseconds: queue, computeNanoseconds: compute)
    return StageAnswer(
      result: .success(.encoded(encoded)), isLast: stopReason != nil,
      isShed: stopReason == .overload,
      measure: StageMeasure(
        model: request.model, method: .encode, tokens: tokens,
        granularityAsked: plan.steps[plan.steps.count - 1].granularity,
        granularity: step.granularity, queueSeconds: Double(queue) * 1e-9,
        computeSeconds: Double(compute) * 1e-9))
  }

  private func stopReason(_ number: Int, _ isShed: Bool, _ fvu: Float?, _ pressure: Int)
    -> StopReason?
  {
    if isShed { return .overload }
    if request.targetFVU > 0, let fvu, fvu <= request.targetFVU { return .targetFVU }
    if number == plan.steps.count - 1 { return .complete }
    return pressure > 0 && request.minGranularity > 0 ? .overload : nil
  }

  /// Fraction of variance unexplained; nil if the dictionary has no mean, or the tokens no variance.
  private func fvu(_ squaredErrors: MemoryBlock) -> Float? {
    guard call.version.dictionary.activationMean != nil else { return nil }
    let variance = variances.bytes.bindMemory(to: Double.self).reduce(0, +)
    guard variance > 0 else { return nil }
    let error = squaredErrors.bytes.bindMemory(to: Float.self).reduce(0.0) { $0 + Double($1) }
    return Float(error / variance)
  }
}

/// Rows of one job, to be encoded together with those of others.
struct EncodeRows {
  let job: EncodeJob
  let piece: Job.Piece
  let step: EncodeJob.Step
  /// The activations as they arrived: [tokens, d_model] of `type`.
  let bytes: UnsafeRawBufferPointer
  let type: DataType
}
