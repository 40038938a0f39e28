internal import GranuleData
internal import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
internal import GranuleEvaluation
internal import GranuleObjective
internal import GranuleStep
internal import GranuleTensors

/// One process's part of a run: batch after batch, a step, its metrics, and now and then a checkpoint.
final class TrainingSession {
  let configuration: TrainingConfiguration
  let source: any ActivationSource
  let run: String
  let core: StartingCore?
  let log: MetricsLog
  private(set) var state: Checkpoint
  /// The step of the newest checkpoint, nil if there is none yet.
  private(set) var checkpointStep: Int?
  /// Steps of the run; fewer than the configuration's if the source ends early.
  private var steps: Int
  private let batches: any BatchReader
  private var lastBatch: ActivationBatch?
  private let nested: NestedStep
  private var clock: RateClock
  private var divergence: DivergenceWatch
  private var isStopping = false

  /// A step that was computed and not yet taken.
  private struct Computed {
    var losses: NestedStep.Losses
    var prefixes: [StepMetrics.Prefix]
    var dead: Int
    var secondsWaited: Double
  }

  /// Opens the log and begins to read batches.
  init(
    _ configuration: TrainingConfiguration, source: any ActivationSource, run: String,
    core: StartingCore?, state: Checkpoint, checkpointStep: Int?
  ) throws {
    self.configuration = configuration
    self.source = source
    self.run = run
    self.core = core
    self.state = state
    self.checkpointStep = checkpointStep
    steps = configuration.steps
    log = try MetricsLog(run: run, keepingStepsUpTo: state.step)
    batches = try source.batches(
      BatchOrder(
        batchTokens: configuration.batchTokens, firstStep: state.step,
        // The batches after the last step judge the finished weights.
        endStep: steps + configuration.divergenceSteps, seed: configuration.seed,
        scale: state.statistics.scale))
    nested = NestedStep(
      weights: state.weights,
      activationDeviation: state.statistics.deviation.map { $0 * Float(state.statistics.scale) })
    clock = RateClock(tokens: state.step * configuration.batchTokens)
    divergence = DivergenceWatch(
      stepsMax: configuration.divergenceSteps, recentLosses: state.recentLosses)
  }

  /// See `Trainer.train`.
  func train(
    onProgress: (Trainer.Progress) -> Void, shouldStop: () -> Bool
  ) throws -> Trainer.Outcome {
    while true {
      let computed = try compute(nextBatch())
      func report(_ activity: Trainer.Progress.Activity) {
        onProgress(progress(activity, computed))
      }
      do {
        let outcome = try judge(computed.losses.total, onProgress: report, shouldStop: shouldStop)
        if let outcome { return outcome }
      } catch is CancellationError {
        return .interrupted(step: state.step)
      }
      // One batch may be odd: if the weights are good, the next one shows it.
      if state.step == steps {
        isStopping = shouldStop()
        continue
      }
      try takeStep(computed)
      report(.step)
      isStopping = shouldStop() && state.step < steps
    }
  }

  /// The next batch. If the source has ended, the run ends with the steps done, and the last batch
  /// judges its weights.
  private func nextBatch() throws(TrainingError) -> ActivationBatch {
    if let batch = try batches.next() {
      lastBatch = batch
      return batch
    }
    guard let lastBatch else {
      throw TrainingError(
        .unusable(input: "stream"), "the stream of activations ended before the first step")
    }
    steps = state.step
    return lastBatch
  }

  private func compute(_ batch: ActivationBatch) throws(TrainingError) -> Computed {
    let dead = state.tokensSinceActive.indices.filter {
      state.tokensSinceActive[$0] >= configuration.deadAfterTokens
    }
    let objective = configuration.objective(atStep: state.step)
    do throws(EncodingError) {
      let losses = try nested.run(batch: batch.activations, dead: dead, objective: objective)
      return Computed(
        losses: losses,
        prefixes: zip(objective.granularities, losses.fvu).map { .init(latents: $0, fvu: $1) },
        dead: dead.count, secondsWaited: batch.secondsWaited)
    } catch {
      throw failure(error, batch)
    }
  }

  /// Judges the weights of the steps so far by a loss that they gave: only then a checkpoint of them
  /// is written, and at the end the dictionary.
  ///
  /// - Returns: how the run ended, nil if it goes on.
  private func judge(
    _ loss: Double, onProgress: (Trainer.Progress.Activity) -> Void, shouldStop: () -> Bool
  ) throws -> Trainer.Outcome? {
    var judged = divergence
    guard judged.isSound(loss) else { throw diverged(judged.reason(loss)) }
    let isLast = state.step == steps
    let isDue = isLast || state.step % configuration.checkpointEverySteps == 0
    if !judged.isSuspect, state.step > 0, isDue || isStopping {
      if checkpointStep != state.step {
        state.recentLosses = divergence.recentLosses
        try writeCheckpoint()
      }
      if !isStopping, log.totals.heldOut?.step != state.step {
        try validate(onProgress: onProgress, shouldStop: shouldStop)
      }
    }
    if isStopping { return .interrupted(step: state.step) }
    divergence = judged
    guard isLast, !judged.isSuspect else { return nil }
    return .finished(try export(state, onProgress: onProgress, shouldStop: shouldStop))
  }

  private func takeStep(_ computed: Computed) throws {
    let losses = computed.losses
    let objective = configuration.objective(atStep: state.step)
    let step = configuration.optimizerStep(
      atStep: state.step, l0: losses.l0, dModel: source.dModel)
    let gradientNorm = nested.update(&state.optimizer, step, objective: objective)
    if let least = losses.leastKept {
      state.servingThreshold =
        state.servingThreshold.map { 0.99 * $0 + 0.01 * least } ?? least
    }
    for latent in state.tokensSinceActive.indices {
      state.tokensSinceActive[latent] =
        nested.wasActive[latent] == 1
        ? 0 : state.tokensSinceActive[latent] + configuration.batchTokens
    }
    state.step += 1
    clock.advance(to: state.step * configuration.batchTokens)
    // Drawn prefixes differ from step to step.
    let drawn = configuration.sampledGranularities == nil ? 0 : computed.prefixes.count - 1
    try log.append(
      .step(
        StepMetrics(
          step: state.step, tokens: state.step * configuration.batchTokens, loss: losses.total,
          prefixes: Array(computed.prefixes.dropFirst(drawn)),
          drawnPrefixes: Array(computed.prefixes.prefix(drawn)),
          auxiliaryLoss: losses.auxiliary, l0: losses.l0, deadLatents: computed.dead,
          learningRate: step.learningRate, gradientNorm: gradientNorm,
          tokensPerSecond: clock.tokensPerSecond, seconds: log.seconds,
          secondsWaited: computed.secondsWaited,
          penalty: configuration.objective.penaltyWeight.map { _ in
            .init(value: losses.penalty, coefficient: objective.sparsityCoefficient)
          },
          core: objective.coreLatents > 0
            ? .init(l0: losses.coreL0, exceedsK: losses.isFloored) : nil,
          servingThreshold: state.servingThreshold)))
  }

  private func progress(
    _ activity: Trainer.Progress.Activity, _ computed: Computed
  ) -> Trainer.Progress {
    let tokens = state.step * configuration.batchTokens
    return Trainer.Progress(
      activity: activity, step: state.step, steps: steps, tokens: tokens,
      loss: computed.losses.total, prefixes: computed.prefixes,
      heldOutFVU: log.totals.heldOut?.fvu, l0: computed.losses.l0, coreL0: computed.losses.coreL0,
      isFloored: computed.losses.isFloored, deadLatents: computed.dead,
      tokensPerSecond: clock.tokensPerSecond,
      secondsLeft: Double(steps * configuration.batchTokens - tokens) / clock.tokensPerSecond)
  }

  private func validate(
    onProgress: (Trainer.Progress.Activity) -> Void, shouldStop: () -> Bool
  ) throws {
    guard let heldOut = try source.heldOut else { return }
    onProgress(.validation(0))
    let evaluation = try Evaluation(
      rawDictionary(state), on: heldOut.spread(tokens: configuration.validationTokens),
      granularities: [configuration.latents],
      onProgress: { onProgress(.validation($0)) }, shouldStop: shouldStop)
    guard let row = evaluation.rows.first else { return }
    try log.append(
      .validation(
        ValidationMetrics(
          step: state.step, fvu: row.fvu, l0: row.l0, tokens: evaluation.tokens)))
  }

  // MARK: Checkpoints and divergence

  private func writeCheckpoint() throws {
    for (name, _, values) in state.weights.named {
      guard values.values.allSatisfy(\.isFinite) else {
        throw diverged("\(name) has a value that is not finite")
      }
    }
    try state.write(run: run, kept: configuration.checkpointsKept)
    checkpointStep = state.step
  }

  private func diverged(_ reason: String) -> TrainingError {
    TrainingError(
      .diverged(step: state.step),
      "training diverged: \(reason) at step \(state.step); \(lastGoodCheckpoint). A lower "
        + "--learning-rate may help")
  }

  private var lastGoodCheckpoint: String {
    checkpointStep.map { "the last good checkpoint is of step \($0)" }
      ?? "there is no checkpoint yet"
  }

  /// A token of the batch that cannot be encoded: the input's fault, or a sign of divergence.
  private func failure(_ error: EncodingError, _ batch: ActivationBatch) -> TrainingError {
    switch error {
    case .notFinite(let token, let dimension):
      let place = batches.describe(row: token)
      return TrainingError(
        .unusable(input: place), "\(place): dimension \(dimension) is not finite")
    case .overflow(let token):
      let dModel = source.dModel
      let start = batch.activations.pointer + token * dModel
      let row = (0..<dModel).map { Float(Double(start[$0]) / state.statistics.scale) }
      let fault = ActivationDataset.describeOverflow(
        at: batches.describe(row: token), row: row, dModel: dModel,
        encoder: state.weights.encoder)
      return TrainingError(
        .diverged(step: state.step),
        "training stopped at step \(state.step): \(fault). Unless that activation is an outlier, "
          + "training diverged; \(lastGoodCheckpoint). A lower --learning-rate may help")
    default: return TrainingError(.mismatch, "\(error)")
    }
  }
}
