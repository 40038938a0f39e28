internal import Glibc
internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

/// The classes of dictionary_learning that can be served, by the names that its configurations give
/// them.
private enum DictionaryClass: String, CaseIterable {
  case autoEncoder = "AutoEncoder"
  case gated = "GatedAutoEncoder"
  case topK = "AutoEncoderTopK"
  case batchTopK = "BatchTopKSAE"
  case matryoshka = "MatryoshkaBatchTopKSAE"
  case jumpReLU = "JumpReluAutoEncoder"
}

extension DictionaryImport {
  /// dictionary_learning: a state dict, and the configuration beside it that names its class; where
  /// there is none, the class is known by its tensors.
  ///
  /// Activations were scaled while training, but what is saved is for raw ones.
  func dictionaryLearning(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    let file = try TorchFile(weights)
    guard file.others["ae"] == nil else {
      throw FileError(
        file: weights,
        fault:
          "is a checkpoint of an unfinished run (\(file.others.keys.sorted().joined(separator: ", "))), "
          + "which does not say whether its biases are those of raw activations: finish the run and "
          + "import its ae.pt")
    }
    let tensors = file.tensors
    let path = sibling("config.json")
    let configuration = access(path, F_OK) == 0 ? try JSONReader(configuration: path) : nil
    let dictionaryClass = try dictionaryClass(tensors, configuration)

    var imported = try parts(of: dictionaryClass, tensors, progress)
    try check(imported, trainer: configuration?["trainer"])
    func known(_ key: String) throws(FileError) -> String {
      let text = try configuration?["trainer"]?.optional(key)?.string() ?? ""
      return text == "none" ? "" : text
    }
    imported.parts.provenance.languageModel = try known("lm_name")
    imported.parts.provenance.hook = HookPoint(try known("submodule_name"))
    return imported
  }

  private func dictionaryClass(
    _ tensors: TensorCollection, _ configuration: JSONReader?
  ) throws(FileError) -> DictionaryClass {
    if let configuration {
      return try configuration.required("trainer").required("dict_class").choice()
    }
    func has(_ name: String) -> Bool { tensors[name] != nil }
    if has("group_sizes") { return .matryoshka }
    if has("r_mag") { return .gated }
    if has("bias") { return .autoEncoder }
    if has("W_enc"), has("threshold"), !has("k") { return .jumpReLU }
    let names = tensors.tensors.prefix(20).map(\.name).joined(separator: ", ")
    throw FileError(
      file: weights,
      fault: has("k")
        ? "has no config.json beside it, which says whether it is AutoEncoderTopK or BatchTopKSAE"
        : "is not a dictionary that is known by its tensors: it has \(names)")
  }

  private func parts(
    of dictionaryClass: DictionaryClass, _ tensors: TensorCollection, _ progress: TransferProgress?
  ) throws(FileError) -> ImportedParts {
    var names = WeightNames.linear
    names.decoderBias = "b_dec"
    var vectors: [String] = []
    var others: [String] = []
    switch dictionaryClass {
    case .autoEncoder: names.decoderBias = "bias"
    case .gated:
      names.encoderBias = "mag_bias"
      names.decoderBias = "decoder_bias"
      vectors = ["gate_bias", "r_mag"]
    case .topK, .batchTopK: others = ["k", "threshold"]
    case .matryoshka:
      names = WeightNames()
      others = ["k", "threshold", "group_sizes"]
    case .jumpReLU:
      names = WeightNames()
      vectors = ["threshold"]
    }
    try tensors.requireOnly(names.all + vectors + others)
    let latents = try tensors.length(of: names.encoderBias)
    let dModel = try tensors.length(of: names.decoderBias)
    // What is small is checked before much is read.
    var k = 0
    var threshold: Float = 0
    var granularities: [Granularity] = []
    switch dictionaryClass {
    case .topK: k = try tensors.integer("k", in: 1...latents)
    case .batchTopK, .matryoshka: threshold = try tensors.calibratedThreshold("threshold")
    case .autoEncoder, .gated, .jumpReLU: break
    }
    if dictionaryClass == .matryoshka { granularities = try groups(tensors, latents: latents) }

    var (imported, read) = try ImportedParts.read(
      tensors, names, dModel: dModel, latents: latents,
      vectors: [String: Int](uniqueKeysWithValues: vectors.map { ($0, latents) }),
      progress: progress)
    imported.parts.granularities = granularities
    let name = dictionaryClass.rawValue
    imported.note("b_dec", "subtracted from inputs")
    switch dictionaryClass {
    case .autoEncoder:
      imported.note("dict_class", "\(name), all positive")
      try imported.parts.foldDecoderNorms(tensor: imported.decoder)
      imported.note("decoder.weight", "rows are given unit norm, as the library does on loading")
    case .gated:
      try imported.parts.foldGate(
        bias: read["gate_bias"]!, magnitude: read["r_mag"]!, tensor: tensors.tensor("r_mag"))
      imported.note("dict_class", "\(name), its gate folded into thresholds and encoder")
    case .topK:
      imported.parts.selectionRule = .topk(k: k)
      imported.note("dict_class", "\(name), the \(k) largest")
      imported.note("threshold", "is not used, as the library does not by default")
    case .batchTopK, .matryoshka:
      imported.parts.selectionRule = .threshold([Float](repeating: threshold, count: latents))
      imported.note("dict_class", "\(name), those above \(threshold), which training calibrated")
    case .jumpReLU:
      let thresholds = read["threshold"]!.array
      imported.parts.selectionRule = .threshold(thresholds)
      imported.parts.subtractsDecoderBias = false
      imported.notes = []
      imported.note("dict_class", "\(name), \(ImportedParts.description(ofThresholds: thresholds))")
      imported.note("b_dec", "added to outputs only")
    }
    return imported
  }

  /// `group_sizes` are increments.
  private func groups(
    _ tensors: TensorCollection, latents: Int
  ) throws(FileError) -> [Granularity] {
    let tensor = try tensors.tensor("group_sizes")
    let sizes = try tensor.loaded().integers()
    guard sizes.allSatisfy({ (1...latents).contains($0) }), sizes.count <= latents,
      sizes.reduce(0, +) == latents
    else {
      throw tensor.fault(
        "is \(sizes.prefix(20)): sizes must be positive and sum to the \(latents) latents")
    }
    var total = 0
    return sizes.map { size in
      total += size
      return Granularity(latents: total, k: 0)
    }
  }

  /// Sizes that the configuration names must be those of the tensors.
  private func check(
    _ imported: ImportedParts, trainer: JSONReader?
  ) throws(FileError) {
    guard let trainer else { return }
    let parts = imported.parts
    for (key, count) in [
      ("activation_dim", parts.decoderBias.count), ("dict_size", parts.encoderBias.count),
    ] {
      if let value = try trainer.optional(key)?.integer(), value != count {
        throw trainer.fault("has \(key) \(value), the tensors have \(count)")
      }
    }
    if case .topk(let k) = parts.selectionRule,
      let value = try trainer.optional("k")?.integer(), value != k
    {
      throw trainer.fault("has k \(value), the tensor k is \(k)")
    }
  }
}
