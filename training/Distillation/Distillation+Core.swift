internal import GranuleData
internal import GranuleDictionary
internal import GranuleErrors
internal import GranuleEvaluation
internal import GranuleFiles
internal import GranuleRun
internal import GranuleTensors

// Dictionaries of single latents: what a cycle selects, and the final core.
extension Distillation {
  /// Writes the core that the rule makes of what the cycles selected.
  func finalCore() throws -> SparseAutoencoder {
    let path = "\(folder)/\(Self.coreFolderName)"
    if Folder.isFolder(path) { return try SparseAutoencoder(folder: path) }
    let history = cycles.map(\.selected)
    let ids = configuration.rule.features(history)
    guard let last = cycles.last, !ids.isEmpty else {
      throw TrainingError(
        .unusable(input: folder),
        "no feature was selected as often as \(configuration.rule.text) asks for: each cycle's own "
          + "selection is in \(folder)/cycle-N/\(Self.selectedFolderName)")
    }
    // Each as the newest dictionary has it: that of the cycle after the last which selected it, whose
    // core it was in, or the last cycle's.
    let latents = try ids.map { id -> (cycle: Int, latent: Int) in
      guard let index = history.lastIndex(where: { $0.contains { $0.id == id } }),
        let place = history[index].firstIndex(where: { $0.id == id })
      else { throw TrainingError.damaged(folder, "no cycle selected feature \(id)") }
      return index == history.count - 1
        ? (index + 1, history[index][place].latent) : (index + 2, place)
    }
    let newest = try Self.dictionary(folder, last.number)
    var core = try Self.core(
      of: latents, like: newest, found: Self.distilled(ids, history),
      open: { [folder] in $0 == last.number ? newest : try Self.dictionary(folder, $0) })
    let activations = try FileActivations(run: Self.cycleFolder(folder, last.number))
    core = try Evaluation.calibrated(
      core, granularities: [core.latents],
      on: (activations.heldOut ?? activations.trained).spread(
        tokens: configuration.training.validationTokens))
    try core.write(newFolder: path)
    return core
  }

  static func dictionary(_ folder: String, _ number: Int) throws -> SparseAutoencoder {
    try SparseAutoencoder(
      folder: "\(cycleFolder(folder, number))/\(Trainer.dictionaryFolderName)")
  }

  static func distilled(
    _ ids: [Int], _ history: [[DistillationCycle.Feature]]
  ) -> DistilledCore {
    var selections: [Int: Int] = [:]
    var newest: [Int: DistillationCycle.Feature] = [:]
    for feature in history.joined() {
      selections[feature.id, default: 0] += 1
      newest[feature.id] = feature
    }
    return DistilledCore(
      attributions: ids.map { Float(newest[$0]?.attribution ?? 0) },
      frequencies: ids.map { Float(newest[$0]?.frequency ?? 0) },
      selections: ids.map { selections[$0] ?? 0 }, cycles: history.count)
  }

  /// A dictionary of single latents, each as its cycle's dictionary has it, the rest as `like` has.
  ///
  /// - Parameter open: reads a cycle's dictionary; asked for one after the other, since all at once
  ///   may be more than memory holds.
  static func core(
    of latents: [(cycle: Int, latent: Int)], like: SparseAutoencoder, found: DistilledCore,
    open: (Int) throws -> SparseAutoencoder
  ) throws -> SparseAutoencoder {
    let dModel = like.dModel
    let (encoder, decoder) = (
      FloatStorage(count: latents.count * dModel), FloatStorage(count: latents.count * dModel)
    )
    var biases = [Float](repeating: 0, count: latents.count)
    var thresholds = biases
    for cycle in Set(latents.map(\.cycle)).sorted() {
      let dictionary = try open(cycle)
      guard case .threshold(let all) = dictionary.selectionRule, dictionary.dModel == dModel,
        latents.allSatisfy({ $0.cycle != cycle || $0.latent < dictionary.latents })
      else {
        throw TrainingError.damaged(
          "cycle \(cycle)", "its dictionary is not the one that the cycle trained")
      }
      for (row, (_, latent)) in latents.enumerated() where latents[row].cycle == cycle {
        (encoder.pointer + row * dModel)
          .update(from: dictionary.encoderWeights.pointer + latent * dModel, count: dModel)
        (decoder.pointer + row * dModel)
          .update(from: dictionary.decoderWeights.pointer + latent * dModel, count: dModel)
        biases[row] = dictionary.encoderBias.pointer[latent]
        thresholds[row] = all[latent]
      }
    }
    var parts = like.parts
    parts.encoderWeights = encoder
    parts.decoderWeights = decoder
    parts.encoderBias = FloatStorage(biases)
    parts.selectionRule = .threshold(thresholds)
    parts.granularities = [Granularity(latents: latents.count, k: 0)]
    parts.latentOrder = nil
    parts.core = found
    return SparseAutoencoder(parts)
  }
}
