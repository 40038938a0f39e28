internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension DictionaryImport {
  /// EleutherAI's sparsify: TopK of ReLU'd pre-activations; b_dec is subtracted from inputs.
  func sparsify(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    let configuration = try Configuration(sibling("cfg.json"))
    let activation = try configuration.value("activation", "a string", \.string) ?? "topk"
    guard activation == "topk" else {
      let reason = activation == "groupmax" ? ": it takes the largest of each group of latents" : ""
      throw configuration.fault(
        "activation \(activation) is not supported\(reason); supported is topk")
    }
    for key in ["transcode", "skip_connection"] where try configuration.flag(key) {
      throw configuration.fault(
        "\(key) is true: transcoders, which predict other activations than they read, are not "
          + "supported")
    }
    guard try !configuration.flag("signed") else {
      throw configuration.fault("signed is true: codes that may be negative are not supported")
    }
    let sizes = 1...Configuration.sizeMax
    guard let dModel = try configuration.integer("d_in", range: sizes) else {
      throw configuration.fault("has no d_in")
    }
    let stated = try configuration.integer("num_latents", range: 0...Configuration.sizeMax) ?? 0
    let factor = try configuration.integer("expansion_factor", range: sizes) ?? 32
    let latents = stated > 0 ? stated : dModel * factor
    guard sizes.contains(latents) else {
      throw configuration.fault("expansion_factor is \(factor): that makes \(latents) latents")
    }
    guard let k = try configuration.integer("k", range: 1...latents) else {
      throw configuration.fault("has no k")
    }
    let file = try SafetensorsFile(FileBytes.map(weights))
    let tensors = TensorCollection(file: weights, tensors: file.tensors.map(\.stored))
    var names = WeightNames.linear
    names.decoder = "W_dec"
    names.decoderIsTransposed = false
    try tensors.requireOnly(names.all)
    var imported = try ImportedParts.read(
      tensors, names, dModel: dModel, latents: latents, progress: progress
    ).parts
    imported.parts.selectionRule = .topk(k: k)
    imported.note("activation", "topk, the \(k) largest")
    imported.note("transcode", "false: b_dec is subtracted from inputs")
    for key in ["multi_topk", "normalize_decoder"] where try configuration.flag(key) {
      imported.note(key, "concerned training, nothing is done here")
    }
    return imported
  }
}
