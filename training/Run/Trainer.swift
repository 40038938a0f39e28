internal import Glibc
public import GranuleData
public import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
internal import GranuleEvaluation
internal import GranuleFiles
internal import GranuleObjective
internal import GranuleStep
internal import GranuleTensors
internal import GranuleThreads

/// Trains a nested dictionary; everything it makes is in the run's folder: `config.json`,
/// `metrics.jsonl`, `checkpoints/`, and at the end `dictionary/`, which SAELens loads.
public final class Trainer {
  /// What is known after a step.
  public struct Progress: Sendable {
    /// What takes the time.
    public enum Activity: Sendable, Equatable {
      /// A step was done.
      case step
      /// The dictionary as of this step is measured on held-out activations: the share done.
      case validation(Double)
      /// The finished dictionary's granularities are measured: the share done.
      case calibration(Double)
    }

    /// A prefix that was trained in the step.
    public struct Prefix: Sendable, Equatable {
      /// Number of latents.
      public var latents: Int
      /// FVU of the batch.
      public var fvu: Double
    }

    /// What takes the time.
    public var activity: Activity
    /// Steps done, of `steps`.
    public var step: Int
    /// Steps of the run.
    public var steps: Int
    /// Tokens trained on so far.
    public var tokens: Int
    /// The batch's loss: mean FVU over granularities, and the auxiliary loss and the penalty, weighted.
    public var loss: Double
    /// The granularities, ascending; the last is the full size.
    public var prefixes: [Prefix]
    /// FVU of held-out activations at full size, as of the last validation; nil before the first.
    public var heldOutFVU: Double?
    /// Mean number of active latents a token of the batch.
    public var l0: Double
    /// Mean number of active latents of the core a token of the batch; 0 without one.
    public var coreL0: Double
    /// Whether the core alone has so many that the others were given a quarter of k.
    public var isFloored: Bool
    /// Latents that have not been active for `deadAfterTokens` tokens.
    public var deadLatents: Int
    /// Tokens a second, over the last seconds.
    public var tokensPerSecond: Double
    /// Seconds left at that rate.
    public var secondsLeft: Double
  }

  /// How a run ended.
  public enum Outcome: Sendable {
    /// The dictionary is in the run's folder `dictionary`.
    case finished(SparseAutoencoder)
    /// It was told to stop. A checkpoint holds what was done, unless the loss looked like diverging:
    /// then the run goes on from `checkpointStep`.
    case interrupted(step: Int)
  }

  /// The folder within a run that holds the finished dictionary.
  public static let dictionaryFolderName = "dictionary"
  /// Tokens that JumpReLU's first thresholds and ReLU's first biases are set by.
  private static let initialThresholdTokens = 1024

  /// The run's configuration.
  public let configuration: TrainingConfiguration
  /// The activations trained on.
  public let training: ActivationDataset
  /// The activations kept from training, nil where none are.
  public let heldOut: ActivationDataset?
  /// In how many of the run's steps the core alone had so many active latents that the others were given
  /// a quarter of k, so that there were more than k in all.
  public private(set) var flooredSteps = 0
  /// Why the newest checkpoint could not be read, where an older one was taken up instead.
  public let damagedCheckpoint: String?
  /// The step of the newest checkpoint, nil where there is none yet.
  public private(set) var checkpointStep: Int?
  private let run: String
  /// Held until training ends.
  private var lock: FolderLock?
  private var state: Checkpoint
  private let core: StartingCore?

  /// Begins a run in a new folder.
  ///
  /// - Throws: `TrainingError` or `FileError` where the configuration or the activations are not
  ///   usable, there is too little memory, or the folder holds a run already.
  public init(_ configuration: TrainingConfiguration, run: String) throws {
    try configuration.validate()
    guard access("\(run)/\(TrainingConfiguration.fileName)", F_OK) != 0 else {
      throw TrainingError(
        "\(run) holds a run already: continue it with --resume, or choose another --out")
    }
    var resolved = try Self.resolved(configuration)
    let activations = try ActivationDataset(paths: resolved.activations)
    (training, heldOut) = try Self.split(activations, resolved)
    core = try Self.readCore(&resolved, dModel: training.dModel)
    let configuration = resolved
    state = try Self.initialState(
      configuration, training: training, heldOut: heldOut, core: core)
    self.configuration = configuration
    self.run = run
    damagedCheckpoint = nil
    try Folder.make(run)
    lock = try FolderLock(run)
    if let core {
      // A copy: the run goes on also where the folder it came from is gone.
      let copy = "\(run)/\(StartingCore.folderName)"
      try Folder.make(copy)
      try core.dictionary.write(to: copy)
    }
    // Before the configuration, with which there is a run.
    try RunActivations(activations).write(to: run)
    try configuration.write(to: run)
  }

  /// The core that a configuration names, checked, and its size set.
  private static func readCore(
    _ configuration: inout TrainingConfiguration, dModel: Int
  ) throws -> StartingCore? {
    guard !configuration.core.isEmpty else { return nil }
    configuration.core = Folder.absolute(configuration.core)
    let core = try StartingCore(folder: configuration.core)
    try core.check(
      dModel: dModel, languageModel: configuration.languageModel, hook: configuration.hook)
    configuration.coreLatents = core.latents
    try configuration.validate()
    return core
  }

  /// Takes up a run where its last checkpoint left it; without one, from the start.
  ///
  /// - Throws: `TrainingError` or `FileError` where there is no run, another process trains it, its
  ///   files are damaged, or its activations are not those that it was begun on.
  public init(resuming run: String) throws {
    configuration = try TrainingConfiguration(run: run)
    self.run = run
    lock = try FolderLock(run)
    (training, heldOut) = try Self.split(run: run)
    core =
      configuration.core.isEmpty
      ? nil : try StartingCore(folder: "\(run)/\(StartingCore.folderName)")
    let coreDModel = core?.dictionary.dModel ?? training.dModel
    guard core?.latents ?? 0 == configuration.coreLatents, coreDModel == training.dModel else {
      throw TrainingError(
        "\(run)/\(StartingCore.folderName): is not the core of the run's configuration, of "
          + "\(configuration.coreLatents) latents and d_model \(training.dModel)")
    }
    var damaged: String?
    let checkpoint = try Checkpoint.latest(
      run: run, latents: configuration.latents, dModel: training.dModel,
      hasThresholds: configuration.objective == .jumprelu,
      onDamaged: { damaged = $0 })
    damagedCheckpoint = damaged
    checkpointStep = checkpoint?.step
    state =
      try checkpoint
      ?? Self.initialState(configuration, training: training, heldOut: heldOut, core: core)
  }

  /// Looks at all that beginning a run looks at, and writes nothing.
  ///
  /// - Throws: as `init(_:run:)`.
  package static func check(_ configuration: TrainingConfiguration) throws {
    try configuration.validate()
    var resolved = try resolved(configuration)
    let (training, heldOut) = try split(
      ActivationDataset(paths: resolved.activations), resolved)
    _ = try readCore(&resolved, dModel: training.dModel)
    _ = try statistics(resolved, training: training, heldOut: heldOut)
  }

  /// The statistics of activations that there is memory to train on.
  private static func statistics(
    _ configuration: TrainingConfiguration, training: ActivationDataset,
    heldOut: ActivationDataset?
  ) throws(TrainingError) -> ActivationStatistics {
    let (latents, dModel) = (configuration.latents, training.dModel)
    let memory = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
    // Weights, two moments and the gradient, of encoder and decoder.
    let ofLatents = 4 * 2 * latents * dModel * MemoryLayout<Float>.size
    guard ofLatents < memory else {
      throw TrainingError(
        "\(latents) latents of d_model \(dModel) take \(ofLatents >> 30) GiB to train, this machine "
          + "has \(memory >> 30) GiB: choose fewer --latents")
    }
    let rows =
      BatchPrefetcher.batches
      + NestedStep.batches(
        granularities: configuration.sampledGranularities ?? configuration.granularities.count)
    let ofBatches = rows * configuration.batchTokens * dModel * MemoryLayout<Float>.size
    guard ofBatches < memory - ofLatents else {
      throw TrainingError(
        "batches of \(configuration.batchTokens) tokens of d_model \(dModel) take "
          + "\(ofBatches >> 30) GiB beside the latents' \(ofLatents >> 30), this machine has "
          + "\(memory >> 30) GiB: choose a smaller --batch")
    }
    let statistics = try ActivationStatistics(training)
    // Better now than at the first validation.
    if let heldOut { _ = try ActivationStatistics.measure(heldOut) }
    return statistics
  }

  private static func initialState(
    _ configuration: TrainingConfiguration, training: ActivationDataset,
    heldOut: ActivationDataset?, core: StartingCore?
  ) throws(TrainingError) -> Checkpoint {
    let (latents, dModel) = (configuration.latents, training.dModel)
    let statistics = try statistics(configuration, training: training, heldOut: heldOut)
    let hasThresholds = configuration.objective == .jumprelu
    let weights = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
    weights.initialize(
      decoderBias: statistics.mean.map { Float(Double($0) * statistics.scale) },
      seed: configuration.seed)
    if let core { weights.adoptEncoders(core.dictionary.encoderWeights) }
    if let thresholds = weights.thresholds {
      let initial: Float
      if let given = configuration.initialThreshold {
        initial = Float(given)
      } else {
        initial = try threshold(
          leaving: configuration.initialL0(dModel: dModel), weights, training, statistics)
      }
      thresholds.pointer.update(repeating: initial, count: latents)
    }
    if configuration.objective == .relu {
      let initial = try threshold(
        leaving: configuration.initialL0(dModel: dModel), weights, training, statistics)
      weights.encoderBias.pointer.update(repeating: -initial, count: latents)
    }
    return Checkpoint(
      step: 0, weights: weights,
      optimizer: AdamOptimizer(latents: latents, dModel: dModel, hasThresholds: hasThresholds),
      tokensSinceActive: [Int](repeating: 0, count: latents), statistics: statistics)
  }

  /// The value that so many pre-activations of a token exceed, on average over some tokens at even
  /// distances.
  private static func threshold(
    leaving l0: Double, _ weights: DictionaryWeights, _ training: ActivationDataset,
    _ statistics: ActivationStatistics
  ) throws(TrainingError) -> Float {
    let (dModel, tokens) = (weights.dModel, min(training.tokens, initialThresholdTokens))
    let sample = FloatStorage(count: tokens * dModel)
    for number in 0..<tokens {
      training.copyToken(
        training.tokens * number / tokens, into: sample.pointer + number * dModel)
    }
    for i in 0..<sample.count { sample.pointer[i] *= Float(statistics.scale) }
    do throws(EncodingError) {
      let encoder = LiveEncoder(weights.lent)
      return try encoder.lend(.topk, history: ScreeningHistory()).encodeBatchTopK(
        UnsafeBufferPointer(start: sample.pointer, count: sample.count),
        granularity: weights.latents, k: max(Int(l0), 1), count: max(Int(l0 * Double(tokens)), 1),
        in: EncodeWorkspace(threads: Parallel.threads)
      ).threshold
    } catch {
      throw TrainingError("the first activations cannot be encoded: \(error)")
    }
  }

  /// Steps done so far.
  public var step: Int { state.step }

  /// Trains to the end of the run, or until told to stop.
  ///
  /// - Parameters:
  ///   - onProgress: called after every step, and while the dictionary is measured.
  ///   - shouldStop: asked as often; true writes a checkpoint and returns.
  /// - Throws: `TrainingError` where training diverged or a token cannot be encoded; `FileError`
  ///   where a file cannot be written. The last checkpoint stays, and it is of weights with which the
  ///   loss of another batch was as it should be.
  public func train(
    onProgress: (Progress) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws -> Outcome {
    defer { lock = nil }
    let log = try MetricsLog(run: run, keepingStepsUpTo: state.step)
    flooredSteps = log.totals.flooredSteps
    let steps = configuration.steps
    let batches = BatchPrefetcher(
      try BatchSampler(training, scale: state.statistics.scale, seed: configuration.seed),
      batchTokens: configuration.batchTokens, step: state.step,
      // Beyond the last step what the finished weights are judged by.
      steps: steps + configuration.divergenceSteps)
    let nested = NestedStep(
      weights: state.weights,
      activationDeviation: state.statistics.deviation.map { $0 * Float(state.statistics.scale) })
    var clock = RateClock(tokens: state.step * configuration.batchTokens)
    var divergence = DivergenceWatch(
      stepsMax: configuration.divergenceSteps, recentLosses: state.recentLosses)
    var isStopping = false

    while true {
      let batch = batches.next()
      let dead = state.tokensSinceActive.indices.filter {
        state.tokensSinceActive[$0] >= configuration.deadAfterTokens
      }
      let objective = configuration.objective(atStep: state.step)
      let losses: NestedStep.Losses
      do throws(EncodingError) {
        losses = try nested.run(batch: batch.activations, dead: dead, objective: objective)
      } catch {
        throw failure(error, indices: batch.indices)
      }
      func report(_ activity: Progress.Activity) {
        let tokens = state.step * configuration.batchTokens
        onProgress(
          Progress(
            activity: activity, step: state.step, steps: steps, tokens: tokens,
            loss: losses.total,
            prefixes: zip(objective.granularities, losses.fvu).map {
              Progress.Prefix(latents: $0, fvu: $1)
            }, heldOutFVU: log.totals.heldOut?.fvu, l0: losses.l0, coreL0: losses.coreL0,
            isFloored: losses.isFloored, deadLatents: dead.count,
            tokensPerSecond: clock.tokensPerSecond,
            secondsLeft: Double(steps * configuration.batchTokens - tokens)
              / clock.tokensPerSecond))
      }

      // This loss judges the weights of the steps so far: only now is a checkpoint of them written.
      var judged = divergence
      guard judged.isSound(losses.total) else { throw diverged(judged.reason(losses.total)) }
      let isLast = state.step == steps
      let isDue = isLast || state.step % configuration.checkpointEverySteps == 0
      if !judged.isSuspect, state.step > 0, isDue || isStopping {
        if checkpointStep != state.step {
          state.recentLosses = divergence.recentLosses
          try writeCheckpoint()
        }
        if !isStopping, log.totals.heldOut?.step != state.step {
          do {
            try validate(log, onProgress: report, shouldStop: shouldStop)
          } catch is CancellationError {
            return .interrupted(step: state.step)
          }
        }
      }
      if isStopping { return .interrupted(step: state.step) }
      divergence = judged
      if isLast {
        // One batch may be odd; weights that are good show it with the next.
        if judged.isSuspect {
          isStopping = shouldStop()
          continue
        }
        do {
          return .finished(try export(onProgress: report, shouldStop: shouldStop))
        } catch is CancellationError {
          return .interrupted(step: state.step)
        }
      }

      let learningRate = configuration.learningRate(atStep: state.step)
      var optimizerStep = configuration.optimizerStep(learningRate: learningRate)
      optimizerStep.thresholdFactor = configuration.thresholdFactor(
        afterStep: state.step, l0: losses.l0, dModel: training.dModel)
      let gradientNorm = nested.update(&state.optimizer, optimizerStep, objective: objective)
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
      try log.append(
        metrics(
          losses, objective, dead: dead.count, learningRate: learningRate,
          gradientNorm: gradientNorm, tokensPerSecond: clock.tokensPerSecond,
          seconds: log.seconds, secondsWaited: batch.secondsWaited))
      flooredSteps = log.totals.flooredSteps
      report(.step)
      isStopping = shouldStop() && state.step < steps
    }
  }

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
      "training diverged: \(reason) at step \(state.step); \(lastGoodCheckpoint). A lower "
        + "--learning-rate may help")
  }

  private var lastGoodCheckpoint: String {
    checkpointStep.map { "the last good checkpoint is of step \($0)" }
      ?? "there is no checkpoint yet"
  }

  /// The dictionary as of now, acting on raw activations: the scale of training is folded away.
  /// Rows keep their norms; b_enc, b_dec and thresholds are divided by the scale.
  func rawDictionary() -> SparseAutoencoder {
    let scale = Float(state.statistics.scale)
    let weights = state.weights
    var parts = SparseAutoencoder.Parts(
      encoderWeights: FloatStorage(weights.encoder.values),
      encoderBias: FloatStorage(weights.encoderBias.values.map { $0 / scale }),
      decoderWeights: FloatStorage(weights.decoder.values),
      decoderBias: FloatStorage(weights.decoderBias.values.map { $0 / scale }),
      selectionRule: selectionRule)
    parts.core = core?.distilled
    parts.activationMean = state.statistics.mean
    parts.activationDeviation = state.statistics.deviation
    parts.provenance.languageModel = configuration.languageModel
    parts.provenance.hook = configuration.hook
    parts.provenance.tokens = state.step * configuration.batchTokens
    parts.provenance.activationScale = state.statistics.scale
    return SparseAutoencoder(parts)
  }

  /// How the dictionary is served, on raw activations. BatchTopK's is a threshold that is the running
  /// mean (0.99) of the least value kept (Bussmann et al.), and 0 for a core, which is exempt.
  private var selectionRule: SelectionRule {
    let scale = Float(state.statistics.scale)
    switch configuration.objective {
    case .topk: return .topk(k: configuration.k)
    case .batchtopk:
      let threshold = Float(state.servingThreshold ?? 0) / scale
      return .threshold(
        (0..<configuration.latents).map { $0 < configuration.coreLatents ? 0 : threshold })
    case .jumprelu: return .threshold((state.weights.thresholds?.array ?? []).map { $0 / scale })
    case .relu: return .relu
    }
  }

  /// Activations to measure a dictionary on, as many as are asked for.
  private var measured: ActivationDataset {
    (heldOut ?? training).spread(tokens: configuration.validationTokens)
  }

  private func export(
    onProgress: (Progress.Activity) -> Void, shouldStop: () -> Bool
  ) throws -> SparseAutoencoder {
    onProgress(.calibration(0))
    let dictionary = try Evaluation.calibrated(
      rawDictionary(), granularities: configuration.listedGranularities, on: measured,
      onProgress: { onProgress(.calibration($0)) }, shouldStop: shouldStop)
    // Written aside and renamed, so that the folder is whole whenever it is there.
    let folder = "\(run)/\(Self.dictionaryFolderName)"
    let temporary = "\(run)/.\(Self.dictionaryFolderName)"
    try Folder.make(temporary)
    try dictionary.write(to: temporary)
    for name in DictionaryFiles.names { unlink("\(folder)/\(name)") }
    rmdir(folder)
    guard rename(temporary, folder) == 0 else {
      throw TrainingError("\(folder): \(String(cString: strerror(errno)))")
    }
    try DurableFile.flushFolder(run)
    return dictionary
  }

  private func validate(
    _ log: MetricsLog, onProgress: (Progress.Activity) -> Void, shouldStop: () -> Bool
  ) throws {
    guard heldOut != nil else { return }
    onProgress(.validation(0))
    let evaluation = try Evaluation(
      rawDictionary(), on: measured, granularities: [configuration.latents],
      onProgress: { onProgress(.validation($0)) }, shouldStop: shouldStop)
    guard let row = evaluation.rows.first else { return }
    try log.append([
      .init("step", JSONValue(state.step)), .init("held_out_fvu", JSONValue(row.fvu)),
      .init("held_out_l0", JSONValue(row.l0)),
      .init("held_out_tokens", JSONValue(evaluation.tokens)),
    ])
  }

  private func metrics(
    _ losses: NestedStep.Losses, _ objective: StepObjective, dead: Int, learningRate: Double,
    gradientNorm: Double, tokensPerSecond: Double, seconds: Double, secondsWaited: Double
  ) -> [JSONValue.Member] {
    let pairs = Array(zip(objective.granularities, losses.fvu))
    // Drawn ones are others at each step: a list, not so many keys.
    let drawn = configuration.sampledGranularities == nil ? [] : pairs.dropLast()
    let fvu = pairs.dropFirst(drawn.count).map {
      JSONValue.Member(String($0), JSONValue($1))
    }
    var members: [JSONValue.Member] = [
      .init("step", JSONValue(state.step)),
      .init("tokens", JSONValue(state.step * configuration.batchTokens)),
      .init("loss", JSONValue(losses.total)), .init("fvu", .object(fvu)),
      .init("auxiliary_loss", JSONValue(losses.auxiliary)), .init("l0", JSONValue(losses.l0)),
      .init("dead_latents", JSONValue(dead)), .init("learning_rate", JSONValue(learningRate)),
      .init("gradient_norm", JSONValue(gradientNorm)),
      .init("tokens_per_second", JSONValue(tokensPerSecond)), .init("seconds", JSONValue(seconds)),
      .init("seconds_waited_for_data", JSONValue(secondsWaited)),
    ]
    if !drawn.isEmpty {
      members.append(
        .init("drawn_fvu", .array(drawn.map { [JSONValue($0), JSONValue($1)] })))
    }
    if !objective.objective.hasK {
      members.append(.init("penalty", JSONValue(losses.penalty)))
      members.append(.init("sparsity_coefficient", JSONValue(objective.sparsityCoefficient)))
    }
    if objective.coreLatents > 0 {
      members.append(.init("core_l0", JSONValue(losses.coreL0)))
      members.append(.init("core_exceeds_k", .bool(losses.isFloored)))
    }
    if let threshold = state.servingThreshold {
      members.append(.init("serving_threshold", JSONValue(threshold)))
    }
    return members
  }

  /// A token of the batch that cannot be encoded: the file's fault, or a sign of divergence.
  private func failure(_ error: EncodingError, indices: [Int]) -> TrainingError {
    switch error {
    case .notFinite(let token, let dimension):
      return TrainingError(
        "\(training.describe(token: indices[token])): dimension \(dimension) is not finite")
    case .overflow(let token):
      let fault = training.describeOverflow(
        token: indices[token], encoder: state.weights.encoder)
      return TrainingError(
        "training stopped at step \(state.step): \(fault). Unless that activation is an outlier, "
          + "training diverged; \(lastGoodCheckpoint). A lower --learning-rate may help")
    default: return TrainingError("\(error)")
    }
  }

  /// What a configuration leaves to the activations, set: where they come from.
  private static func resolved(
    _ configuration: TrainingConfiguration
  ) throws -> TrainingConfiguration {
    var result = configuration
    result.activations = configuration.activations.map(Folder.absolute)
    let dataset = try ActivationDataset(paths: configuration.activations)
    if result.languageModel.isEmpty { result.languageModel = dataset.origin?.languageModel ?? "" }
    if result.hook.isUnknown { result.hook = dataset.origin?.hook ?? "" }
    return result
  }

  /// The activations that a run trains on, and those that it holds out.
  ///
  /// - Throws: `TrainingError` or `FileError` where they cannot be opened, or are not those that the
  ///   run was begun on.
  public static func split(
    run: String
  ) throws -> (training: ActivationDataset, heldOut: ActivationDataset?) {
    let configuration = try TrainingConfiguration(run: run)
    let dataset = try ActivationDataset(paths: configuration.activations)
    try RunActivations.check(dataset, of: run)
    return try split(dataset, configuration)
  }

  /// - Throws: `TrainingError` where they are too few.
  private static func split(
    _ all: ActivationDataset, _ configuration: TrainingConfiguration
  ) throws -> (training: ActivationDataset, heldOut: ActivationDataset?) {
    var dataset = all
    if let sequences = configuration.sequences {
      dataset = try dataset.selecting(sequences: sequences)
    }
    let count = dataset.sequenceCount
    let heldOut = configuration.heldOutSequences ?? (count > 1 ? max(1, count / 10) : 0)
    guard heldOut < count else {
      throw TrainingError(
        "\(heldOut) sequences are to be held out, but there are only \(count) to train on")
    }
    guard heldOut > 0 else { return (dataset, nil) }
    return (
      try dataset.selecting(sequences: 0..<count - heldOut),
      try dataset.selecting(sequences: count - heldOut..<count)
    )
  }
}

/// Tokens a second over the last few seconds.
private struct RateClock {
  private static let windowSeconds = 5.0
  private var marks: [(seconds: Double, tokens: Int)]

  /// 0 before the first step.
  private(set) var tokensPerSecond = 0.0

  init(tokens: Int) { marks = [(Self.now(), tokens)] }

  mutating func advance(to tokens: Int) {
    let now = Self.now()
    marks.append((now, tokens))
    while marks.count > 2, now - marks[1].seconds > Self.windowSeconds { marks.removeFirst() }
    tokensPerSecond = Double(tokens - marks[0].tokens) / max(now - marks[0].seconds, 1e-9)
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
