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
    func fault(_ text: String) -> FileError { FileError(file: file.path, fault: text) }
    let root: JSONValue
    do throws(StrictJSONError) { root = try StrictJSON.parse(file.bytes) } catch {
      throw fault("is not valid JSON: \(error)")
    }
    guard root.members != nil else { throw fault("is \(root.kind), an object is needed") }

    func value<T>(
      _ key: String, _ kind: String, _ convert: (JSONValue) -> T?
    ) throws(FileError) -> T? {
      guard let value = root[key], value != .null else { return nil }
      guard let converted = convert(value) else {
        throw fault("\(key) is \(StrictJSON.text(value).prefix(60)), \(kind) is needed")
      }
      return converted
    }
    func size(_ key: String) throws(FileError) -> Int {
      guard let size = try value(key, "an integer", \.integer) else { throw fault("has no \(key)") }
      guard (1...Self.sizeMax).contains(size) else {
        throw fault("\(key) is \(size), it must be in 1 … \(Self.sizeMax)")
      }
      return size
    }

    let metadata = root["metadata"]
    isOlderThanSix = metadata?["sae_lens_version"] == nil
    dModel = try size("d_in")
    latents = try size("d_sae")

    var name = try value("architecture", "a string", \.string)
    var legacyK: JSONValue?
    if isOlderThanSix {
      // Before 6.0 the architecture was optional, and top-k an activation function of `standard`.
      let activation = root["activation_fn_str"] ?? root["activation_fn"]
      if let activation = activation?.string, name ?? "standard" == "standard" {
        switch activation {
        case "topk":
          name = "topk"
          legacyK = root["activation_fn_kwargs"]?["k"]
        case "relu": break
        default: throw fault("activation_fn \(activation) is not supported; known are relu, topk")
        }
      }
      name = name ?? "standard"
    }
    guard let name else { throw fault("has no architecture") }
    guard let architecture = Architecture(rawValue: name) else {
      let known = Architecture.allCases.map(\.rawValue).joined(separator: ", ")
      let reason = Self.reasons[name].map { ": \($0)" } ?? ""
      throw fault("architecture \(name) is not supported\(reason); supported are \(known)")
    }
    self.architecture = architecture

    guard let type = try value("dtype", "a string", \.string) else {
      throw fault("has no dtype")
    }
    let short = type.hasPrefix("torch.") ? String(type.dropFirst(6)) : type
    guard ["float32", "float16", "bfloat16", "float64"].contains(short) else {
      throw fault(
        "dtype \(type) is not supported; supported are float32, float16, bfloat16, float64")
    }

    subtractsDecoderBias =
      try value("apply_b_dec_to_input", "a truth value", \.bool) ?? true
    // SAELens's default differs: true in training's configurations alone.
    let isCheckpoint = architecture == .batchtopk || architecture == .matryoshkaBatchTopK
    rescalesByDecoderNorm =
      try value("rescale_acts_by_decoder_norm", "a truth value", \.bool) ?? isCheckpoint
    if architecture == .topk {
      guard let value = root["k"] ?? legacyK else { throw fault("has no k") }
      guard let k = value.integer else {
        throw fault("k is \(StrictJSON.text(value).prefix(60)), an integer is needed")
      }
      guard (1...latents).contains(k) else {
        throw fault("k is \(k), it must be in 1 … \(latents), d_sae")
      }
      self.k = k
    } else {
      k = 0
    }

    switch root["normalize_activations"] {
    case .bool(true), .string("expected_average_only_in"): wasScaled = true
    default: wasScaled = false
    }
    switch root["normalize_activations"] {
    case nil, .null, .bool(false), .string("none"): normalization = .none
    // SAELens applies nothing at inference: the factor or matrix is not in the folder.
    case .bool(true), .string("expected_average_only_in"): normalization = .none
    case .string("covariance_whitening") where !isCheckpoint: normalization = .none
    case .string("constant_norm_rescale"): normalization = .constantNormRescale
    case .string("layer_norm"): normalization = .layerNorm
    case .some(let other):
      throw fault("normalize_activations \(StrictJSON.text(other).prefix(60)) is not supported")
    }
    // hook_z only flattens heads, and activations come flattened here.
    if let reshape = try value("reshape_activations", "a string", \.string),
      !["none", "hook_z"].contains(reshape)
    {
      throw fault("reshape_activations \(reshape) is not supported; supported are none, hook_z")
    }
    if let outputSize = root["d_out"] {
      throw fault(
        "d_out is \(StrictJSON.text(outputSize).prefix(60)): transcoders are not supported")
    }

    granularities = try Self.granularities(root, latents: latents, fault: fault)
    var provenance = Provenance()
    let own = metadata?["granule"]
    provenance.languageModel =
      own?["trained_on"]?["model"]?.string ?? metadata?["model_name"]?.string
      ?? root["model_name"]?.string ?? ""
    provenance.hook =
      own?["trained_on"]?["hook"]?.string ?? metadata?["hook_name"]?.string
      ?? root["hook_name"]?.string ?? root["hook_point"]?.string ?? ""
    provenance.tokens = own?["trained_on"]?["tokens"]?.integer
    provenance.orderedBy = own?["ordered_by"]?.string
    provenance.activationScale = own?["activation_scale"]?.number
    self.provenance = provenance
  }

  /// Ours, with what was calibrated; else SAELens's cumulative Matryoshka widths.
  private static func granularities(
    _ root: JSONValue, latents: Int, fault: (String) -> FileError
  ) throws(FileError) -> [Granularity] {
    let metadata = root["metadata"]
    var result: [Granularity] = []
    if let own = metadata?["granule"]?["granularities"] {
      guard let elements = own.elements else {
        throw fault("metadata.granule.granularities is \(own.kind), an array is needed")
      }
      for element in elements {
        guard let count = element["latents"]?.integer, let k = element["k"]?.integer,
          (1...latents).contains(count), (0...count).contains(k)
        else {
          throw fault(
            "metadata.granule.granularities has \(StrictJSON.text(element).prefix(80)): latents must "
              + "be in 1 … \(latents), k in 0 … latents")
        }
        result.append(
          Granularity(
            latents: count, k: k, l0: element["l0"]?.number.map { Float($0) },
            fvu: element["fvu"]?.number.map { Float($0) }))
      }
    } else if let widths = metadata?["training_architecture_details"]?["matryoshka_widths"]
      ?? root["matryoshka_widths"], widths != .null
    {
      for element in widths.elements ?? [] {
        guard let count = element.integer, (1...latents).contains(count) else {
          throw fault(
            "matryoshka_widths has \(StrictJSON.text(element).prefix(60)), d_sae is \(latents)")
        }
        result.append(Granularity(latents: count, k: 0))
      }
    }
    for (before, after) in zip(result, result.dropFirst()) where before.latents >= after.latents {
      throw fault("granularities do not ascend: \(before.latents), then \(after.latents)")
    }
    return result
  }
}
