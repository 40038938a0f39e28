internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension DictionaryImport {
  /// OpenAI's sparse_autoencoder (Gao et al., Scaling and evaluating sparse autoencoders, 2024): a
  /// state dict that names its activation. TopK implies that each input is normalised, as SAELens's
  /// layer_norm does it.
  func openAI(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    func fault(_ text: String) -> FileError { FileError(file: weights, fault: text) }
    let file = try TorchFile(weights)
    let tensors = file.tensors
    for name in file.others.keys.sorted()
    where !["activation", "activation_state_dict"].contains(name) {
      throw fault("its state dict has \(name), which is not a tensor")
    }
    let names = WeightNames(
      encoder: "encoder.weight", encoderIsTransposed: false, decoder: "decoder.weight",
      decoderIsTransposed: true, encoderBias: "latent_bias", decoderBias: "pre_bias")
    let statistics = [
      "stats_last_nonzero", "latents_activation_frequency", "latents_mean_square",
    ]
    try tensors.requireOnly(names.all + statistics)
    let latents = try tensors.length(of: names.encoderBias)
    let dModel = try tensors.length(of: names.decoderBias)

    let activation: String
    if let value = file.others["activation"] {
      guard let name = value.string else { throw fault("its activation is not a string") }
      activation = name
    } else {
      activation = "ReLU"
    }
    let rule: SelectionRule
    switch activation {
    case "ReLU": rule = .relu
    case "TopK":
      let state = Dictionary(
        (file.others["activation_state_dict"]?.members ?? []).map {
          ($0.key.string ?? "", $0.value)
        },
        uniquingKeysWith: { first, _ in first })
      guard let k = state["k"]?.integer else { throw fault("its activation_state_dict has no k") }
      guard (1...latents).contains(k) else {
        throw fault("its k is \(k), it must be in 1 … \(latents)")
      }
      let after = state["postact_fn"]?.string ?? "ReLU"
      guard after == "ReLU" else {
        throw fault("its postact_fn is \(after): codes that may be negative are not supported")
      }
      rule = .topk(k: k)
    default:
      throw fault("its activation \(activation) is not supported; supported are TopK, ReLU")
    }

    var imported = try ImportedParts.read(
      tensors, names, dModel: dModel, latents: latents, progress: progress
    ).parts
    imported.parts.selectionRule = rule
    if case .topk(let k) = rule {
      imported.parts.inputNormalization = .layerNorm
      imported.note("activation", "TopK, the \(k) largest")
      imported.note("normalize", "each input is normalised, as TopK implies (layer_norm)")
    } else {
      imported.note("activation", "ReLU, all positive")
    }
    imported.note("pre_bias", "subtracted from inputs")
    if let squares = tensors["latents_mean_square"] {
      let values = try squares.vector(count: latents).array
      // As it was made, if nothing was measured.
      if values.contains(where: { $0 > 0 }), values.allSatisfy({ $0 >= 0 }) {
        imported.meanSquares = values
      }
    }
    return imported
  }
}
