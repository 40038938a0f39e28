public import GranuleDictionary
public import GranuleFiles
internal import GranuleTensors

extension SparseAutoencoder {
  /// Writes the dictionary to a folder that is not there yet, as EleutherAI's sparsify loads it:
  /// `cfg.json` and `sae.safetensors`.
  ///
  /// sparsify always subtracts b_dec from inputs: where this dictionary does not, W_enc b_dec is
  /// added to b_enc.
  ///
  /// - Throws: `FileError` if sparsify has no such selection rule or input normalisation,
  ///   if there is something at `folder`, or with the system's reason.
  public func writeSparsify(
    newFolder folder: String, progress: TransferProgress? = nil
  ) throws(FileError) {
    guard case .topk(let k) = selectionRule else {
      throw FileError(
        file: folder,
        fault: "cannot be written for sparsify: it has TopK only, the dictionary's rule is "
          + selectionRule.name)
    }
    guard inputNormalization == .none else {
      throw FileError(
        file: folder,
        fault:
          "cannot be written for sparsify: it does not normalise inputs, the dictionary does by "
          + inputNormalization.rawValue)
    }
    try Folder.create(folder) { (temporary) throws(FileError) in
      try SafetensorsWriter.write(
        [
          .init("encoder.weight", [latents, dModel], encoderWeights),
          .init("encoder.bias", [latents], biasBeforeSubtraction),
          .init("W_dec", [latents, dModel], decoderWeights),
          .init("b_dec", [dModel], decoderBias),
        ], metadata: ["format": "pt"], to: "\(temporary)/sae.safetensors", progress: progress)
      let configuration: JSONValue = [
        "activation": "topk", "num_latents": JSONValue(latents), "k": JSONValue(k),
        "normalize_decoder": false, "multi_topk": false, "skip_connection": false,
        "transcode": false, "d_in": JSONValue(dModel),
      ]
      try DurableFile.replace(
        "\(temporary)/cfg.json", with: StrictJSON.text(configuration, indented: true) + "\n")
    }
  }

  /// b_enc of an encoder that subtracts b_dec from its inputs: [latents]
  private var biasBeforeSubtraction: FloatStorage {
    guard !subtractsDecoderBias else { return encoderBias }
    let bias = FloatStorage(count: latents)
    for latent in 0..<latents {
      let row = encoderWeights.pointer + latent * dModel
      var sum = Double(encoderBias.pointer[latent])
      for i in 0..<dModel { sum += Double(row[i]) * Double(decoderBias.pointer[i]) }
      bias.pointer[latent] = Float(sum)
    }
    return bias
  }
}
