internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension DictionaryImport {
  /// EleutherAI's sparsify: TopK of ReLU'd pre-activations; b_dec is subtracted from inputs.
  func sparsify(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    let configuration = try JSONReader(configuration: sibling("cfg.json"))
    let activation = try configuration.optional("activation")?.string() ?? "topk"
    guard activation == "topk" else {
      let reason = activation == "groupmax" ? ": it takes the largest of each group of latents" : ""
      throw configuration.fault(
        "activation \(activation) is not supported\(reason); supported is topk", kind: .unsupported)
    }
    for key in ["transcode", "skip_connection"] where try configuration.flag(key) {
      throw configuration.fault(
        "\(key) is true: transcoders, which predict other activations than they read, are not "
          + "supported", kind: .unsupported)
    }
    guard try !configuration.flag("signed") else {
      throw configuration.fault(
        "signed is true: codes that may be negative are not supported", kind: .unsupported)
    }
    let sizes = 1...JSONReader.sizeMax
    let dModel = try configuration.required("d_in").integer(in: sizes)
    let stated = try configuration.optional("num_latents")?.integer(in: 0...JSONReader.sizeMax) ?? 0
    let factor = try configuration.optional("expansion_factor")?.integer(in: sizes) ?? 32
    let latents = stated > 0 ? stated : dModel * factor
    guard sizes.contains(latents) else {
      throw configuration.fault("expansion_factor is \(factor): that makes \(latents) latents")
    }
    let k = try configuration.required("k").integer(in: 1...latents)
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
