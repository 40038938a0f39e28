internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension DictionaryImport {
  /// Gemma Scope 1: an archive of five arrays, without a configuration. JumpReLU; b_dec is not
  /// subtracted from inputs (Lieberum et al., Gemma Scope, 2024).
  func gemmaScope(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    var imported = try jumpReLU(NumpyArchive.tensors(weights), progress)
    imported.note("activation", jumpReLUDescription(imported))
    imported.note("b_dec", "added to outputs only")
    return imported
  }

  /// Gemma Scope 2: the same arrays in safetensors, beside a configuration.
  func gemmaScope2(_ progress: TransferProgress?) throws(FileError) -> ImportedParts {
    let configuration = try JSONReader(configuration: sibling("config.json"))
    let architecture = try configuration.required("architecture").string()
    guard architecture == "jump_relu" else {
      throw configuration.fault(
        "architecture \(architecture) is not supported; supported is jump_relu", kind: .unsupported)
    }
    let input = try configuration.optional("hf_hook_point_in")?.string()
    if let output = try configuration.optional("hf_hook_point_out")?.string(),
      output != input
    {
      throw configuration.fault(
        "hf_hook_point_out is \(output): a transcoder, which predicts other activations than it "
          + "reads, is not supported", kind: .unsupported)
    }
    let file = try SafetensorsFile(FileBytes.map(weights))
    if let skip = file["affine_skip_connection"] {
      throw skip.fault("is there: transcoders with a skip connection are not supported")
    }
    var imported = try jumpReLU(
      TensorCollection(file: weights, tensors: file.tensors.map(\.stored)), progress)
    imported.note("architecture", "jump_relu, \(jumpReLUDescription(imported))")
    imported.note("b_dec", "added to outputs only")
    let model = try configuration.optional("model_name")?.string()
    imported.parts.provenance.languageModel = model ?? ""
    imported.parts.provenance.hook = HookPoint(input ?? "")
    return imported
  }

  private func jumpReLU(
    _ tensors: TensorCollection, _ progress: TransferProgress?
  ) throws(FileError) -> ImportedParts {
    // Some releases have lower-case names.
    var names = WeightNames()
    if tensors["w_enc"] != nil { names.encoder = "w_enc" }
    if tensors["w_dec"] != nil { names.decoder = "w_dec" }
    let latents = try tensors.length(of: names.encoderBias)
    let dModel = try tensors.length(of: names.decoderBias)
    try tensors.requireOnly(names.all + ["threshold"])
    var (imported, vectors) = try ImportedParts.read(
      tensors, names, dModel: dModel, latents: latents, vectors: ["threshold": latents],
      progress: progress)
    imported.parts.selectionRule = .threshold(vectors["threshold"]!.array)
    imported.parts.subtractsDecoderBias = false
    return imported
  }

  private func jumpReLUDescription(_ imported: ImportedParts) -> String {
    guard case .threshold(let thresholds) = imported.parts.selectionRule else { return "" }
    return ImportedParts.description(ofThresholds: thresholds)
  }
}
