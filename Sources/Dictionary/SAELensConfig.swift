internal import GranuleFiles
internal import GranuleTensors

/// The contents of `cfg.json`.
struct SAELensConfig {
  enum Architecture: String, CaseIterable {
    case standard, topk, jumprelu, gated
    /// Stored in training checkpoints; SAELens exports these as jumprelu.
    case batchtopk
    case matryoshkaBatchTopK = "matryoshka_batchtopk"
  }

  let architecture: Architecture
  let dModel: Int
  let latents: Int
  let k: Int
  let subtractsDecoderBias: Bool
  let rescalesByDecoderNorm: Bool
  let normalization: InputNormalization
  /// Whether activations were scaled by a factor that the folder's `cfg.json` does not have.
  let wasScaled: Bool
  let granularities: [Granularity]
  let provenance: Provenance
  let isOlderThanSix: Bool
  /// Whether it is a training checkpoint of a kind that SAELens exports as jumprelu.
  var isCheckpoint: Bool { architecture == .batchtopk || architecture == .matryoshkaBatchTopK }

  /// Reasons why some architectures of SAELens cannot be served.
  private static let reasons = [
    "abstopk": "its codes may be negative, ours are positive",
    "transcoder": "it predicts other activations than it reads",
    "skip_transcoder": "it predicts other activations than it reads",
    "jumprelu_transcoder": "it predicts other activations than it reads",
    "jumprelu_skip_transcoder": "it predicts other activations than it reads",
    "matching_pursuit": "it encodes by many products in turn, not one",
    "temporal": "its codes depend on other tokens",
  ]

  /// Beyond any dictionary, and small enough that products of two sizes fit 63 bits.
  private static let sizeMax = 1 << 30

  init(_ file: FileBytes) throws(FileError) {
    let root = try JSONReader(file)
    _ = try root.members()
    func unsupported(_ text: String) -> FileError {
      root.fault(text, kind: .unsupported)
    }
    let metadata = root["metadata"]
    isOlderThanSix = metadata?["sae_lens_version"] == nil
    dModel = try root.required("d_in").integer(in: 1...Self.sizeMax)
    latents = try root.required("d_sae").integer(in: 1...Self.sizeMax)

    var name = try root.optional("architecture")?.string()
    var legacyK: JSONReader?
    if isOlderThanSix {
      // Before 6.0 the architecture was optional, and top-k an activation function of `standard`.
      let activation = root["activation_fn_str"] ?? root["activation_fn"]
      if let activation = activation?.value.string, name ?? "standard" == "standard" {
        switch activation {
        case "topk":
          name = "topk"
          legacyK = root["activation_fn_kwargs"]?["k"]
        case "relu": break
        default:
          throw unsupported("activation_fn \(activation) is not supported; known are relu, topk")
        }
      }
      name = name ?? "standard"
    }
    guard let name else { throw root.fault("has no architecture") }
    guard let architecture = Architecture(rawValue: name) else {
      let known = Architecture.allCases.map(\.rawValue).joined(separator: ", ")
      let reason = Self.reasons[name].map { ": \($0)" } ?? ""
      throw unsupported("architecture \(name) is not supported\(reason); supported are \(known)")
    }
    self.architecture = architecture

    let type = try root.required("dtype").string()
    let short = type.hasPrefix("torch.") ? String(type.dropFirst(6)) : type
    guard ["float32", "float16", "bfloat16", "float64"].contains(short) else {
      throw unsupported(
        "dtype \(type) is not supported; supported are float32, float16, bfloat16, float64")
    }

    subtractsDecoderBias = try root.optional("apply_b_dec_to_input")?.bool() ?? true
    // SAELens's default differs: true in training's configurations alone.
    let isCheckpoint = architecture == .batchtopk || architecture == .matryoshkaBatchTopK
    rescalesByDecoderNorm =
      try root.optional("rescale_acts_by_decoder_norm")?.bool() ?? isCheckpoint
    if architecture == .topk {
      guard let value = root["k"] ?? legacyK else { throw root.fault("has no k") }
      k = try value.integer(in: 1...latents)
    } else {
      k = 0
    }

    let normalize = root["normalize_activations"]
    switch normalize?.value {
    case .bool(true), .string("expected_average_only_in"): wasScaled = true
    default: wasScaled = false
    }
    switch normalize?.value {
    case nil, .null, .bool(false), .string("none"): normalization = .none
    // SAELens applies nothing at inference: the factor or matrix is not in the folder.
    case .bool(true), .string("expected_average_only_in"): normalization = .none
    case .string("covariance_whitening") where !isCheckpoint: normalization = .none
    case .string("constant_norm_rescale"): normalization = .constantNormRescale
    case .string("layer_norm"): normalization = .layerNorm
    case .some:
      throw unsupported("normalize_activations \(normalize?.excerpt ?? "") is not supported")
    }
    // hook_z only flattens heads, and activations come flattened here.
    if let reshape = try root.optional("reshape_activations")?.string(),
      !["none", "hook_z"].contains(reshape)
    {
      throw unsupported(
        "reshape_activations \(reshape) is not supported; supported are none, hook_z")
    }
    if let outputSize = root["d_out"] {
      throw outputSize.fault(
        "is \(outputSize.excerpt): transcoders are not supported", kind: .unsupported)
    }

    granularities = try Self.granularities(root, latents: latents)
    var provenance = Provenance()
    let own = metadata?["granule"]
    let trainedOn = own?["trained_on"]
    func text(_ candidates: JSONReader?...) -> String {
      candidates.lazy.compactMap { $0?.value.string }.first ?? ""
    }
    provenance.languageModel = text(
      trainedOn?["model"], metadata?["model_name"], root["model_name"])
    provenance.hook = HookPoint(
      text(trainedOn?["hook"], metadata?["hook_name"], root["hook_name"], root["hook_point"]))
    provenance.tokens = trainedOn?["tokens"]?.value.integer
    provenance.orderedBy = own?["ordered_by"]?.value.string
    provenance.activationScale = own?["activation_scale"]?.value.number
    self.provenance = provenance
  }

  /// Ours, with what was calibrated; else SAELens's cumulative Matryoshka widths.
  private static func granularities(
    _ root: JSONReader, latents: Int
  ) throws(FileError) -> [Granularity] {
    let metadata = root["metadata"]
    var result: [Granularity] = []
    if let own = metadata?["granule"]?["granularities"] {
      for element in try own.elements() {
        let count = try element.required("latents").integer(in: 1...latents)
        result.append(
          Granularity(
            latents: count, k: try element.required("k").integer(in: 0...count),
            l0: element["l0"]?.value.number.map { Float($0) },
            fvu: element["fvu"]?.value.number.map { Float($0) }))
      }
    } else if let widths = metadata?["training_architecture_details"]?["matryoshka_widths"]
      ?? root["matryoshka_widths"], widths.value.elements != nil
    {
      for element in try widths.elements() {
        result.append(Granularity(latents: try element.integer(in: 1...latents), k: 0))
      }
    }
    for (before, after) in zip(result, result.dropFirst()) where before.latents >= after.latents {
      throw root.fault("granularities do not ascend: \(before.latents), then \(after.latents)")
    }
    return result
  }
}
