internal import Glibc
public import GranuleFiles
internal import GranuleTensors

extension SparseAutoencoder {
  /// Reads a dictionary folder, as SAELens and `write(to:)` lay it out.
  ///
  /// - Throws: `FileError` that names file, tensor and fault.
  public init(folder: String) throws(FileError) {
    try self.init(files: DictionaryFiles(folder: folder))
  }

  /// Reads a dictionary from its files, checking everything: sizes against each other, every weight
  /// finite, no tensor missing or left over.
  ///
  /// Architectures standard, topk, jumprelu and gated of SAELens 6, and its older layout without a
  /// version; batchtopk and matryoshka_batchtopk as its training checkpoints have them, which become
  /// thresholds. `normalize_activations` expected_average_only_in and covariance_whitening do
  /// nothing, as in SAELens at inference. `rescale_acts_by_decoder_norm` and gates are folded into
  /// the weights.
  ///
  /// - Throws: `FileError` that names file, tensor and fault.
  public init(files: DictionaryFiles) throws(FileError) {
    self.init(try Self.parts(files: files))
  }

  /// The parts of a dictionary from its files, as `init(files:)` reads them.
  ///
  /// - Parameters:
  ///   - activationScale: the factor by which training multiplied activations, if it is not in the
  ///     weights yet.
  ///   - progress: of reading.
  /// - Throws: `FileError` that names file, tensor and fault, or says that `progress` ended it.
  package static func parts(
    files: DictionaryFiles, activationScale: Double? = nil, progress: TransferProgress? = nil
  ) throws(FileError) -> Parts {
    try parts(
      SAELensConfig(files.config), SafetensorsFile(files.weights),
      try files.companion.map(companion), activationScale: activationScale, progress: progress)
  }
}

/// Lifts a throwing initialiser so that `map` keeps its error type.
private func companion(_ file: FileBytes) throws(FileError) -> SafetensorsFile {
  try SafetensorsFile(file)
}

extension SparseAutoencoder {
  private static func parts(
    _ config: SAELensConfig, _ file: SafetensorsFile, _ companion: SafetensorsFile?,
    activationScale: Double?, progress: TransferProgress?
  ) throws(FileError) -> Parts {
    let (dModel, latents) = (config.dModel, config.latents)
    let needed = 4 * file.tensors.reduce(0) { $0 + $1.count }
    guard Memory.canBeHad(needed) else {
      throw FileError(
        file: file.file.path,
        fault: "needs \(needed) bytes of memory to be loaded, more than can be had")
    }
    var vectors = ["b_dec": dModel]
    switch config.architecture {
    case .standard, .topk, .batchtopk, .matryoshkaBatchTopK: vectors["b_enc"] = latents
    case .jumprelu: vectors.merge(["b_enc": latents, "threshold": latents]) { $1 }
    case .gated: vectors.merge(["b_gate": latents, "b_mag": latents, "r_mag": latents]) { $1 }
    }
    if config.isOlderThanSix, file["scaling_factor"] != nil { vectors["scaling_factor"] = latents }
    let known =
      Array(vectors.keys) + ["W_enc", "W_dec"] + (config.isCheckpoint ? ["topk_threshold"] : [])
    for tensor in file.tensors where !known.contains(tensor.name) {
      throw tensor.fault(
        "is unexpected; architecture \(config.architecture.rawValue) has "
          + known.sorted().joined(separator: ", "))
    }
    // Matrices last, so that faults of the small tensors are reported at once.
    var values: [String: FloatStorage] = [:]
    for (name, count) in vectors.sorted(by: { $0.key < $1.key }) {
      values[name] = try file.tensor(name).stored.vector(count: count, progress: progress)
    }
    if let factors = values["scaling_factor"],
      let odd = factors.values.firstIndex(where: { $0 != 1 })
    {
      throw try file.tensor("scaling_factor").fault(
        "[\(odd)] is \(factors.values[odd]); only scaling factors of 1 are supported")
    }
    let rule: SelectionRule =
      switch config.architecture {
      case .standard, .gated: .relu
      case .topk: .topk(k: config.k)
      case .jumprelu: .threshold(values["threshold"]!.array)
      case .batchtopk, .matryoshkaBatchTopK:
        .threshold(
          [Float](repeating: try calibratedThreshold(file.tensor("topk_threshold")), count: latents)
        )
      }
    let decoder = try file.tensor("W_dec").stored.matrix(
      shape: [latents, dModel], transposed: false, progress: progress)
    let encoder = try file.tensor("W_enc").stored.matrix(
      shape: [dModel, latents], transposed: true, progress: progress)
    var parts = Parts(
      encoderWeights: encoder, encoderBias: values["b_enc"] ?? values["b_mag"]!,
      decoderWeights: decoder, decoderBias: values["b_dec"]!, selectionRule: rule)
    if config.architecture == .gated {
      try parts.foldGate(
        bias: values["b_gate"]!, magnitude: values["r_mag"]!, tensor: file.tensor("r_mag").stored)
    }
    if config.rescalesByDecoderNorm {
      try parts.foldDecoderNorms(tensor: file.tensor("W_dec").stored)
    }
    parts.subtractsDecoderBias = config.subtractsDecoderBias
    parts.inputNormalization = config.normalization
    parts.granularities = config.granularities
    parts.provenance = config.provenance
    if let activationScale {
      try parts.foldActivationScale(activationScale, tensor: file.tensor("W_dec").stored)
    } else if config.isCheckpoint && config.wasScaled {
      throw FileError(
        file: file.file.path,
        fault: "is a training checkpoint whose activations were scaled (normalize_activations "
          + "expected_average_only_in) by a factor that is not known here: use granule import")
    }
    if let tensor = companion?["activation_deviation"] {
      parts.activationDeviation = try tensor.stored.vector(count: dModel).array
    }
    if let tensor = companion?["activation_mean"] {
      parts.activationMean = try tensor.stored.vector(count: dModel).array
    }
    if let tensor = companion?["latent_order"] {
      guard tensor.shape == [latents] else {
        throw tensor.fault("has shape \(tensor.shape), [\(latents)] is needed")
      }
      let order = try tensor.integers()
      if let odd = order.firstIndex(where: { $0 < 0 }) {
        throw tensor.fault("[\(odd)] is \(order[odd]), an index is needed")
      }
      guard Set(order).count == order.count else {
        throw tensor.fault("names a latent twice; each must be named once")
      }
      parts.latentOrder = order
    }
    if let companion { parts.core = try core(companion, latents: latents) }
    return parts
  }

  /// The distilled core; nil if the file has none.
  private static func core(
    _ file: SafetensorsFile, latents: Int
  ) throws(FileError) -> DistilledCore? {
    guard let attribution = file["core_attribution"] else { return nil }
    guard attribution.shape.count == 1, (1...latents).contains(attribution.count) else {
      throw attribution.fault(
        "has shape \(attribution.shape), one dimension of 1 … \(latents) is needed")
    }
    let shape = attribution.shape
    let frequency = try file.tensor("core_frequency")
    let (selections, cycles) = (
      try counts(try file.tensor("core_selections"), shape: shape),
      try counts(try file.tensor("core_cycles"), shape: [1])
    )
    return DistilledCore(
      attributions: try attribution.stored.vector(count: shape[0]).array,
      frequencies: try frequency.stored.vector(count: shape[0]).array, selections: selections,
      cycles: cycles[0])
  }

  private static func counts(
    _ tensor: Tensor, shape: [Int]
  ) throws(FileError) -> [Int] {
    guard tensor.shape == shape else {
      throw tensor.fault("has shape \(tensor.shape), \(shape) is needed")
    }
    let counts = try tensor.integers()
    if let odd = counts.firstIndex(where: { $0 < 0 }) {
      throw tensor.fault("[\(odd)] is \(counts[odd]), a number of cycles is needed")
    }
    return counts
  }

  /// The one threshold of a BatchTopK dictionary, a scalar that training calibrates.
  private static func calibratedThreshold(_ tensor: Tensor) throws(FileError) -> Float {
    guard tensor.count == 1 else { throw tensor.fault("has shape \(tensor.shape), [] is needed") }
    let threshold = try tensor.float32().array[0]
    guard threshold.isFinite, threshold > 0 else {
      throw tensor.fault(
        "is \(threshold): it was never calibrated; train on, so that it becomes positive")
    }
    return threshold
  }
}
