internal import Glibc
public import GranuleFiles
internal import GranuleTensors

extension SparseAutoencoder {
  /// Writes the dictionary to the folder `folder`, which must exist, as SAELens loads it
  /// unmodified: `cfg.json` and `sae_weights.safetensors`, and our `granule.safetensors` beside
  /// them.
  ///
  /// SAELens's standard, topk and jumprelu stand for the rules relu, topk and threshold; what it
  /// has no place for is under `metadata.granule`, which it keeps.
  ///
  /// - Throws: `FileError` with the system's reason, or if `progress` ends it; files that were
  ///   written before stay.
  public func write(
    to folder: String, progress: TransferProgress? = nil
  ) throws(FileError) {
    var weights: [SafetensorsWriter.Entry] = [
      .init("W_enc", [dModel, latents], transposing: encoderWeights),
      .init("b_enc", [latents], encoderBias),
      .init("W_dec", [latents, dModel], decoderWeights),
      .init("b_dec", [dModel], decoderBias),
    ]
    if case .threshold(let thresholds) = selectionRule {
      weights.append(.init("threshold", [latents], FloatStorage(thresholds)))
    }
    try SafetensorsWriter.write(
      weights, metadata: ["format": "pt"], to: "\(folder)/\(DictionaryFiles.weightsName)",
      progress: progress)

    let order = latentOrder?.map { Int64($0) }
    var companion: [SafetensorsWriter.Entry] = []
    if let activationDeviation {
      companion.append(.init("activation_deviation", [dModel], FloatStorage(activationDeviation)))
    }
    if let activationMean {
      companion.append(.init("activation_mean", [dModel], FloatStorage(activationMean)))
    }
    if let core {
      companion.append(
        .init("core_attribution", [core.latents], FloatStorage(core.attributions)))
      companion.append(.init("core_frequency", [core.latents], FloatStorage(core.frequencies)))
    }
    let selections = core?.selections.map { Int64($0) } ?? []
    let cycles = [Int64(core?.cycles ?? 0)]
    let companionPath = "\(folder)/\(DictionaryFiles.companionName)"
    // Nested, since entries do not own the integers' bytes.
    try (order ?? []).withBytes { (order) throws(FileError) in
      try selections.withBytes { (selections) throws(FileError) in
        try cycles.withBytes { (cycles) throws(FileError) in
          if latentOrder != nil {
            companion.append(.init("latent_order", .int64, [latents], order))
          }
          if let core {
            companion.append(.init("core_selections", .int64, [core.latents], selections))
            companion.append(.init("core_cycles", .int64, [1], cycles))
          }
          guard !companion.isEmpty else {
            unlink(companionPath)
            return
          }
          try SafetensorsWriter.write(companion, to: companionPath)
        }
      }
    }
    try DurableFile.replace(
      "\(folder)/\(DictionaryFiles.configName)",
      with: StrictJSON.text(saeLensConfig, indented: true) + "\n")
  }

  /// Writes the dictionary as `write(to:)` to a folder that is not there yet, whole or not at all.
  ///
  /// - Throws: `FileError` if there is something at `folder`, with the system's reason, or if
  ///   `progress` ends it.
  public func write(
    newFolder folder: String, progress: TransferProgress? = nil
  ) throws(FileError) {
    try Folder.create(folder) { (temporary) throws(FileError) in
      try write(to: temporary, progress: progress)
    }
  }

  /// SAELens reads a config without a version as older than 6.0, by other rules.
  private static let saeLensVersion = "6.54.12"

  private var saeLensConfig: JSONValue {
    var members: [JSONValue.Member] = []
    func add(_ key: String, _ value: JSONValue) { members.append(.init(key, value)) }
    switch selectionRule {
    case .topk(let k):
      add("architecture", "topk")
      add("k", JSONValue(k))
      add("rescale_acts_by_decoder_norm", false)
    case .threshold: add("architecture", "jumprelu")
    case .relu: add("architecture", "standard")
    }
    add("d_in", JSONValue(dModel))
    add("d_sae", JSONValue(latents))
    add("dtype", "float32")
    add("device", "cpu")
    add("apply_b_dec_to_input", .bool(subtractsDecoderBias))
    add("normalize_activations", .string(inputNormalization.rawValue))
    add("reshape_activations", "none")

    var own: [JSONValue.Member] = [
      .init("selection_rule", .string(selectionRule.name)),
      .init(
        "granularities",
        .array(
          granularities.map { granularity in
            var entry: [JSONValue.Member] = [
              .init("latents", JSONValue(granularity.latents)),
              .init("k", JSONValue(granularity.k)),
            ]
            if let l0 = granularity.l0 { entry.append(.init("l0", JSONValue(Double(l0)))) }
            if let fvu = granularity.fvu { entry.append(.init("fvu", JSONValue(Double(fvu)))) }
            return .object(entry)
          })),
    ]
    var trainedOn: [JSONValue.Member] = []
    if !provenance.languageModel.isEmpty {
      trainedOn.append(.init("model", .string(provenance.languageModel)))
    }
    if !provenance.hook.isUnknown {
      trainedOn.append(.init("hook", .string(provenance.hook.name)))
    }
    if let tokens = provenance.tokens { trainedOn.append(.init("tokens", JSONValue(tokens))) }
    own.append(.init("trained_on", .object(trainedOn)))
    if let orderedBy = provenance.orderedBy { own.append(.init("ordered_by", .string(orderedBy))) }
    if let scale = provenance.activationScale {
      own.append(.init("activation_scale", JSONValue(scale)))
    }

    var metadata: [JSONValue.Member] = [
      .init("sae_lens_version", .string(Self.saeLensVersion)),
      .init("model_name", .string(provenance.languageModel)),
      .init("hook_name", .string(provenance.hook.name)),
      .init("granule", .object(own)),
    ]
    if !granularities.isEmpty {
      let widths = JSONValue.array(granularities.map { JSONValue($0.latents) })
      metadata.append(
        .init("training_architecture_details", ["matryoshka_widths": widths]))
    }
    add("metadata", .object(metadata))
    return .object(members)
  }
}
