internal import Glibc
internal import StrictJSON
public import Tensors

extension SparseAutoencoder {
  /// Reads a dictionary folder, as SAELens and `write(to:)` lay it out.
  ///
  /// - Throws: `TensorFileError` that names file, tensor and fault.
  public convenience init(folder: String) throws(TensorFileError) {
    try self.init(files: DictionaryFiles(folder: folder))
  }

  /// Reads a dictionary from its files, checking everything: sizes against each other, every weight
  /// finite, no tensor missing or left over.
  ///
  /// Architectures standard, topk and jumprelu of SAELens 6, and its older layout without a
  /// version. `normalize_activations` expected_average_only_in and covariance_whitening do nothing,
  /// as in SAELens at inference. `rescale_acts_by_decoder_norm` is folded into the weights.
  ///
  /// - Throws: `TensorFileError` that names file, tensor and fault.
  public convenience init(files: DictionaryFiles) throws(TensorFileError) {
    let config = try SAELensConfig(files.config)
    let weights = try SafetensorsFile(files.weights)
    self.init(try Self.parts(config, weights, try files.companion.map(companion)))
  }
}

/// Lifts a throwing initialiser so that `map` keeps its error type.
private func companion(_ file: FileBytes) throws(TensorFileError) -> SafetensorsFile {
  try SafetensorsFile(file)
}

/// What `cfg.json` says.
private struct SAELensConfig {
  enum Architecture: String, CaseIterable { case standard, topk, jumprelu }

  let architecture: Architecture
  let dModel: Int
  let latents: Int
  let k: Int
  let subtractsDecoderBias: Bool
  let rescalesByDecoderNorm: Bool
  let normalization: InputNormalization
  let granularities: [Granularity]
  let provenance: Provenance
  let isOlderThanSix: Bool

  /// Beyond any dictionary, and small enough that products of two sizes fit 63 bits.
  private static let sizeMax = 1 << 30

  init(_ file: FileBytes) throws(TensorFileError) {
    func fault(_ text: String) -> TensorFileError { TensorFileError(file: file.path, fault: text) }
    let root: JSONValue
    do throws(StrictJSONError) { root = try StrictJSON.parse(file.bytes) } catch {
      throw fault("is not valid JSON: \(error)")
    }
    guard root.members != nil else { throw fault("is \(root.kind), an object is needed") }

    func value<T>(
      _ key: String, _ kind: String, _ convert: (JSONValue) -> T?
    ) throws(TensorFileError) -> T? {
      guard let value = root[key], value != .null else { return nil }
      guard let converted = convert(value) else {
        throw fault("\(key) is \(StrictJSON.text(value).prefix(60)), \(kind) is needed")
      }
      return converted
    }
    func size(_ key: String) throws(TensorFileError) -> Int {
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
      throw fault("architecture \(name) is not supported; supported are \(known)")
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
    rescalesByDecoderNorm =
      try value("rescale_acts_by_decoder_norm", "a truth value", \.bool) ?? false
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
    case nil, .null, .bool(false), .string("none"): normalization = .none
    // SAELens applies nothing at inference: the factor or matrix is not in the folder.
    case .bool(true), .string("expected_average_only_in"), .string("covariance_whitening"):
      normalization = .none
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

    granularities = try Self.granularities(metadata, latents: latents, fault: fault)
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
    _ metadata: JSONValue?, latents: Int, fault: (String) -> TensorFileError
  ) throws(TensorFileError) -> [Granularity] {
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
    } else if let widths = metadata?["training_architecture_details"]?["matryoshka_widths"],
      widths != .null
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

extension SparseAutoencoder {
  private static func parts(
    _ config: SAELensConfig, _ file: SafetensorsFile, _ companion: SafetensorsFile?
  ) throws(TensorFileError) -> Parts {
    let (dModel, latents) = (config.dModel, config.latents)
    // All tensors as float32, and W_enc once more, transposed.
    let needed = 4 * (file.tensors.reduce(0) { $0 + $1.count } + (file["W_enc"]?.count ?? 0))
    guard Memory.canBeHad(needed) else {
      throw TensorFileError(
        file: file.file.path,
        fault: "needs \(needed) bytes of memory to be loaded, more than can be had")
    }
    var shapes = [
      "W_enc": [dModel, latents], "b_enc": [latents], "W_dec": [latents, dModel], "b_dec": [dModel],
    ]
    if config.architecture == .jumprelu { shapes["threshold"] = [latents] }
    if config.isOlderThanSix, file["scaling_factor"] != nil { shapes["scaling_factor"] = [latents] }
    for tensor in file.tensors where shapes[tensor.name] == nil {
      throw tensor.fault(
        "is unexpected; architecture \(config.architecture.rawValue) has "
          + shapes.keys.sorted().joined(separator: ", "))
    }
    var values: [String: FloatStorage] = [:]
    for (name, shape) in shapes.sorted(by: { $0.key < $1.key }) {
      values[name] = try checkedValues(try file.tensor(name), shape: shape)
    }
    if let factors = values["scaling_factor"],
      let odd = factors.values.firstIndex(where: { $0 != 1 })
    {
      throw try file.tensor("scaling_factor").fault(
        "[\(odd)] is \(factors.pointer[odd]); only scaling factors of 1 are supported")
    }
    guard let encoder = values["W_enc"], let encoderBias = values["b_enc"],
      let decoder = values["W_dec"], let decoderBias = values["b_dec"]
    else { preconditionFailure("every tensor in shapes was read") }

    let encoderRows = transposed(encoder, rows: dModel, columns: latents)
    if config.rescalesByDecoderNorm {
      foldDecoderNorms(encoderRows, encoderBias, decoder, dModel: dModel)
      guard encoderRows.values.allSatisfy(\.isFinite), encoderBias.values.allSatisfy(\.isFinite)
      else {
        throw try file.tensor("W_dec").fault(
          "has rows so long that W_enc or b_enc, scaled by their norms, overflows float32")
      }
    }
    let rule: SelectionRule =
      switch config.architecture {
      case .standard: .relu
      case .topk: .topk(k: config.k)
      case .jumprelu: .threshold(values["threshold"]!.array)
      }
    var parts = Parts(
      encoderWeights: encoderRows, encoderBias: encoderBias, decoderWeights: decoder,
      decoderBias: decoderBias, selectionRule: rule)
    parts.subtractsDecoderBias = config.subtractsDecoderBias
    parts.inputNormalization = config.normalization
    parts.granularities = config.granularities
    parts.provenance = config.provenance
    if let tensor = companion?["activation_deviation"] {
      parts.activationDeviation = try checkedValues(tensor, shape: [dModel]).array
    }
    if let tensor = companion?["activation_mean"] {
      parts.activationMean = try checkedValues(tensor, shape: [dModel]).array
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
        throw tensor.fault("names a latent twice, each must be another one")
      }
      parts.latentOrder = order
    }
    if let companion { parts.core = try core(companion, latents: latents) }
    return parts
  }

  /// What a distillation found of the first latents, nil where the file does not say.
  private static func core(
    _ file: SafetensorsFile, latents: Int
  ) throws(TensorFileError) -> DistilledCore? {
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
      attributions: try checkedValues(attribution, shape: shape).array,
      frequencies: try checkedValues(frequency, shape: shape).array, selections: selections,
      cycles: cycles[0])
  }

  private static func counts(
    _ tensor: Tensor, shape: [Int]
  ) throws(TensorFileError) -> [Int] {
    guard tensor.shape == shape else {
      throw tensor.fault("has shape \(tensor.shape), \(shape) is needed")
    }
    let counts = try tensor.integers()
    if let odd = counts.firstIndex(where: { $0 < 0 }) {
      throw tensor.fault("[\(odd)] is \(counts[odd]), a number of cycles is needed")
    }
    return counts
  }

  private static func checkedValues(
    _ tensor: Tensor, shape: [Int]
  ) throws(TensorFileError) -> FloatStorage {
    guard tensor.shape == shape else {
      let transposed = shape.count == 2 && tensor.shape == shape.reversed()
      throw tensor.fault(
        "has shape \(tensor.shape), \(shape) is needed"
          + (transposed ? " (it seems transposed)" : ""))
    }
    let values = try tensor.float32()
    if let odd = values.values.firstIndex(where: { !$0.isFinite }) {
      let position = shape.count == 2 ? "\(odd / shape[1]), \(odd % shape[1])" : "\(odd)"
      throw tensor.fault("[\(position)] is \(values.pointer[odd]), every weight must be finite")
    }
    return values
  }

  /// SAELens's top-k ranks h_j · ‖W_dec[j]‖ and divides by the norm when it decodes: the same as
  /// encoder rows longer by the norm and decoder rows shorter by it.
  private static func foldDecoderNorms(
    _ encoder: FloatStorage, _ encoderBias: FloatStorage, _ decoder: FloatStorage, dModel: Int
  ) {
    for latent in 0..<encoderBias.count {
      let row = decoder.pointer + latent * dModel
      var squares = 0.0
      for i in 0..<dModel { squares += Double(row[i]) * Double(row[i]) }
      let norm = squares.squareRoot()
      for i in 0..<dModel {
        encoder.pointer[latent * dModel + i] *= Float(norm)
        // A row of zeros writes nothing, whatever its latent's value.
        if norm > 0 { row[i] = Float(Double(row[i]) / norm) }
      }
      encoderBias.pointer[latent] *= Float(norm)
    }
  }
}

/// The transpose of a row-major [rows, columns] matrix, in tiles that stay in cache.
func transposed(_ matrix: FloatStorage, rows: Int, columns: Int) -> FloatStorage {
  let result = FloatStorage(count: rows * columns)
  let (from, to, tile) = (matrix.pointer, result.pointer, 32)
  for rowStart in stride(from: 0, to: rows, by: tile) {
    for columnStart in stride(from: 0, to: columns, by: tile) {
      for column in columnStart..<min(columnStart + tile, columns) {
        for row in rowStart..<min(rowStart + tile, rows) {
          to[column * rows + row] = from[row * columns + column]
        }
      }
    }
  }
  return result
}
