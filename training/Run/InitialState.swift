internal import Glibc
internal import GranuleData
internal import GranuleDictionary
internal import GranuleEncoder
internal import GranuleErrors
internal import GranuleObjective
internal import GranuleStep
internal import GranuleTensors
internal import GranuleThreads

// What a run begins with.
extension TrainingConfiguration {
  /// - Throws: `TrainingError` if weights or batches take more memory than the machine has.
  func checkMemory(source: any ActivationSource) throws(TrainingError) {
    let (memory, dModel) = (
      sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE)), source.dModel
    )
    // Weights, two moments and the gradient, of encoder and decoder.
    let ofLatents = 4 * 2 * latents * dModel * MemoryLayout<Float>.size
    guard ofLatents < memory else {
      throw TrainingError(
        .tooLittleMemory(needed: ofLatents, available: memory),
        "\(latents) latents of d_model \(dModel) take \(ofLatents >> 30) GiB to train, this machine "
          + "has \(memory >> 30) GiB: choose fewer --latents")
    }
    let rows =
      source.rowsInMemory(batchTokens: batchTokens)
      + NestedStep.batches(granularities: sampledGranularities ?? granularities.count)
      * batchTokens
    let ofBatches = rows * dModel * MemoryLayout<Float>.size
    guard ofBatches < memory - ofLatents else {
      throw TrainingError(
        .tooLittleMemory(needed: ofLatents + ofBatches, available: memory),
        "batches of \(batchTokens) tokens of d_model \(dModel) take "
          + "\(ofBatches >> 30) GiB beside the latents' \(ofLatents >> 30), this machine has "
          + "\(memory >> 30) GiB: choose a smaller --batch")
    }
  }
}

extension Checkpoint {
  /// Number of tokens that JumpReLU's first thresholds and ReLU's first biases are set by.
  private static let initialThresholdTokens = 1024

  /// The state before the first step: random weights, a core's encoder vectors, thresholds.
  ///
  /// - Throws: `TrainingError` if there is too little memory, or activations are not usable.
  static func initial(
    _ configuration: TrainingConfiguration, source: any ActivationSource, core: StartingCore?
  ) throws(TrainingError) -> Checkpoint {
    try configuration.checkMemory(source: source)
    let (latents, dModel) = (configuration.latents, source.dModel)
    let statistics = try source.statistics()
    let hasThresholds = configuration.objective.kind == .jumprelu
    let weights = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
    weights.initialize(
      decoderBias: statistics.mean.map { Float(Double($0) * statistics.scale) },
      seed: configuration.seed)
    if let core { weights.adoptEncoders(core.dictionary.encoderWeights) }
    func firstThreshold() throws(TrainingError) -> Float {
      try threshold(
        leaving: configuration.initialL0(dModel: dModel), weights, source, statistics)
    }
    switch configuration.objective {
    case .topk, .batchtopk: break
    case .jumprelu(let settings):
      let initial: Float =
        if let given = settings.initialThreshold { Float(given) } else { try firstThreshold() }
      weights.thresholds?.pointer.update(repeating: initial, count: latents)
    case .relu:
      weights.encoderBias.pointer.update(repeating: -(try firstThreshold()), count: latents)
    }
    return Checkpoint(
      step: 0, weights: weights,
      optimizer: AdamOptimizer(latents: latents, dModel: dModel, hasThresholds: hasThresholds),
      tokensSinceActive: [Int](repeating: 0, count: latents), statistics: statistics)
  }

  /// The value that `l0` pre-activations of a token exceed, on average over a sample of tokens.
  private static func threshold(
    leaving l0: Double, _ weights: DictionaryWeights, _ source: any ActivationSource,
    _ statistics: ActivationStatistics
  ) throws(TrainingError) -> Float {
    let sample = try source.sample(tokens: initialThresholdTokens)
    let tokens = sample.count / weights.dModel
    for i in 0..<sample.count { sample.pointer[i] *= Float(statistics.scale) }
    do throws(EncodingError) {
      let encoder = LiveEncoder(weights.lent)
      return try encoder.lend(.topk, history: ScreeningHistory()).encodeBatchTopK(
        UnsafeBufferPointer(start: sample.pointer, count: sample.count),
        granularity: weights.latents, k: max(Int(l0), 1), count: max(Int(l0 * Double(tokens)), 1),
        in: EncodeWorkspace(threads: Parallel.threads)
      ).threshold
    } catch {
      throw TrainingError(
        .unusable(input: "activations"), "the first activations cannot be encoded: \(error)")
    }
  }
}
