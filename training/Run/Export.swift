internal import Glibc
internal import GranuleData
internal import GranuleDictionary
internal import GranuleErrors
internal import GranuleEvaluation
internal import GranuleFiles
internal import GranuleObjective
internal import GranuleStep
internal import GranuleTensors

// From weights in training to a dictionary that is served.
extension TrainingSession {
  /// The dictionary as of now, acting on raw activations: the scale of training is folded away.
  /// Rows keep their norms; b_enc, b_dec and thresholds are divided by the scale.
  func rawDictionary(_ state: Checkpoint) -> SparseAutoencoder {
    let scale = Float(state.statistics.scale)
    let weights = state.weights
    var parts = SparseAutoencoder.Parts(
      encoderWeights: FloatStorage(weights.encoder.values),
      encoderBias: FloatStorage(weights.encoderBias.values.map { $0 / scale }),
      decoderWeights: FloatStorage(weights.decoder.values),
      decoderBias: FloatStorage(weights.decoderBias.values.map { $0 / scale }),
      selectionRule: selectionRule(state))
    parts.core = core?.distilled
    parts.activationMean = state.statistics.mean
    parts.activationDeviation = state.statistics.deviation
    parts.provenance.languageModel = configuration.languageModel
    parts.provenance.hook = configuration.hook
    parts.provenance.tokens = state.step * configuration.batchTokens
    parts.provenance.activationScale = state.statistics.scale
    return SparseAutoencoder(parts)
  }

  /// How the dictionary is served, on raw activations. BatchTopK's threshold is the running mean
  /// (0.99) of the least value kept (Bussmann et al.), and 0 for a core, which is exempt.
  private func selectionRule(_ state: Checkpoint) -> SelectionRule {
    let scale = Float(state.statistics.scale)
    switch configuration.objective {
    case .topk(let k): return .topk(k: k)
    case .batchtopk:
      let threshold = Float(state.servingThreshold ?? 0) / scale
      return .threshold(
        (0..<configuration.latents).map { $0 < configuration.coreLatents ? 0 : threshold })
    case .jumprelu: return .threshold((state.weights.thresholds?.array ?? []).map { $0 / scale })
    case .relu: return .relu
    }
  }

  /// Calibrates the dictionary's granularities and writes it into the run's folder. If nothing can be
  /// measured, granularities have no figures.
  func export(
    _ state: Checkpoint, onProgress: (Trainer.Progress.Activity) -> Void, shouldStop: () -> Bool
  ) throws -> SparseAutoencoder {
    onProgress(.calibration(0))
    var dictionary = rawDictionary(state)
    if let measured = try source.heldOut ?? source.training {
      dictionary = try Evaluation.calibrated(
        dictionary, granularities: configuration.listedGranularities,
        on: measured.spread(tokens: configuration.validationTokens),
        onProgress: { onProgress(.calibration($0)) }, shouldStop: shouldStop)
    }
    // Written aside and renamed, so that the folder is whole whenever it is there.
    let folder = "\(run)/\(Trainer.dictionaryFolderName)"
    let temporary = "\(run)/.\(Trainer.dictionaryFolderName)"
    try Folder.make(temporary)
    try dictionary.write(to: temporary)
    for name in DictionaryFiles.names { unlink("\(folder)/\(name)") }
    rmdir(folder)
    guard rename(temporary, folder) == 0 else {
      throw FileError.system(folder)
    }
    try DurableFile.flushFolder(run)
    return dictionary
  }
}
