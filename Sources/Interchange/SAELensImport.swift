internal import Glibc
internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension DictionaryImport {
  /// A folder of SAELens, as `SparseAutoencoder` reads it itself; of a training checkpoint that was
  /// not folded yet also the scale of activations.
  func saeLens(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    let configuration = try JSONReader(configuration: sibling(DictionaryFiles.configName))
    let companion = sibling(DictionaryFiles.companionName)
    let files = DictionaryFiles(
      config: try FileBytes.read(
        sibling(DictionaryFiles.configName), byteCountMax: DictionaryFiles.configBytesMax),
      weights: try FileBytes.map(weights),
      companion: access(companion, F_OK) == 0 ? try FileBytes.read(companion) : nil)
    var scale = activationScale
    if scale == nil {
      scale = try checkpointScale(sibling("activation_scaler.json"), configuration)
    }
    let parts = try SparseAutoencoder.parts(
      files: files, activationScale: scale, progress: progress)
    var imported = ImportedParts(
      parts: parts, decoder: try SafetensorsFile(files.weights).tensor("W_dec").stored)
    imported.noteSettings(configuration, scale: scale, isStored: activationScale == nil)
    return imported
  }

  /// What training multiplied activations by, which its checkpoints keep in a file of its own until
  /// it is folded into the weights at the end.
  private func checkpointScale(
    _ path: String, _ configuration: JSONReader
  ) throws(FileError) -> Double? {
    guard access(path, F_OK) == 0 else { return nil }
    let scaler = try JSONReader(configuration: path)
    guard scaler["has_whitening"]?.value != true else {
      throw scaler.fault(
        "has_whitening is true: whitened activations are not supported; fold the whitening with "
          + "SAELens", kind: .unsupported)
    }
    guard configuration["normalize_activations"]?.value == "expected_average_only_in" else {
      return nil
    }
    return try scaler.optional("scaling_factor")?.number()
  }
}

extension ImportedParts {
  fileprivate mutating func noteSettings(
    _ configuration: JSONReader, scale: Double?, isStored: Bool
  ) {
    func text(_ key: String) -> String? {
      configuration[key].map { $0.value.string ?? StrictJSON.text($0.value) }
    }
    let architecture = text("architecture") ?? "standard"
    switch parts.selectionRule {
    case .topk(let k):
      // Before 6.0 it was an activation function.
      let name = architecture == "topk" ? architecture : "\(architecture) with activation topk"
      note("architecture", "\(name), the \(k) largest")
    case .relu: note("architecture", "\(architecture), all positive")
    case .threshold(let thresholds):
      note("architecture", "\(architecture), \(Self.description(ofThresholds: thresholds))")
      if architecture == "gated" {
        note("b_gate, b_mag, r_mag", "folded into thresholds and encoder")
      }
    }
    note(
      "apply_b_dec_to_input",
      parts.subtractsDecoderBias
        ? "b_dec is subtracted from inputs" : "b_dec is added to outputs only")
    if text("reshape_activations") == "hook_z" {
      note("reshape_activations", "none: hook_z's heads are given side by side, [tokens, d_model]")
    }
    if let normalization = text("normalize_activations"),
      !["none", "false"].contains(normalization)
    {
      switch parts.inputNormalization {
      case .none where scale != nil:
        if isStored { note("activation_scaler.json", "scale \(scale!), folded into the weights") }
      case .none where normalization == "covariance_whitening":
        note(
          "normalize_activations",
          "\(normalization): nothing is applied, as by SAELens, since the matrix is not in the folder"
        )
      case .none:
        note(
          "normalize_activations",
          "\(normalization): nothing is applied, as by SAELens, since the folder does not have the "
            + "factor; --activation-scale folds it")
      default: note("normalize_activations", "\(normalization), applied to each input")
      }
    }
    if configuration["rescale_acts_by_decoder_norm"]?.value == true {
      note("rescale_acts_by_decoder_norm", "folded into encoder and decoder")
    }
  }

  /// Their range, or the one value.
  static func description(ofThresholds thresholds: [Float]) -> String {
    let (least, most) = (thresholds.min() ?? 0, thresholds.max() ?? 0)
    return least == most ? "those above \(least)" : "those above thresholds of \(least) … \(most)"
  }
}
