package import GranuleTensors

extension EncodingCore {
  /// Encodes a batch with k active latents a token on average, as BatchTopK trains (Bussmann et al.,
  /// BatchTopK Sparse Autoencoders): the k · tokens largest positive pre-activations of the whole
  /// batch; of equal ones those of earlier tokens, then of lower latents.
  ///
  /// A floor is guessed for the batch, and latents below it are not looked at. If enough latents reach
  /// it, the guess is proven; otherwise it is lowered.
  ///
  /// - Parameters:
  ///   - count: number of latents to keep in the batch; nil keeps k · tokens.
  ///   - exempt: number of first latents that are not selected from, and left out.
  /// - Precondition: the selection rule is `topk`.
  /// - Returns: the codes, and the least value among them; 0 if there are fewer positive ones.
  /// - Throws: `EncodingError`, for the first token concerned.
  package func encodeBatchTopK(
    _ activations: UnsafeBufferPointer<Float>, granularity: Int, k: Int, count: Int? = nil,
    exempt: Int = 0, in workspace: EncodeWorkspace
  ) throws(EncodingError) -> (codes: SparseCodes, threshold: Float) {
    _ = try checkedK(k, granularity: granularity)
    let input = EncodeInput(activations: activations, granularity: granularity)
    let tokens = try tokens(input)
    let wanted = count ?? k * tokens
    guard wanted > 0 else { return (SparseCodes(emptyTokens: tokens), 0) }
    var floor = guess(input, tokens: tokens, wanted: wanted, exempt: exempt, workspace)
    while true {
      var codes = try encodeSplittingTokens(input, floor: floor, workspace.scratch)
      if exempt > 0 { codes = codes.droppingLatents(exempt) }
      let enough = codes.values.count { $0 >= floor } >= wanted
      if enough || floor == 0 { return codes.largest(wanted) }
      // Lower it by steps; if that would take many, to 0, which finds everything positive.
      floor = floor < 1e-3 * (codes.values.max() ?? 0) ? 0 : 0.7 * floor
    }
  }

  /// A little below what a sample of tokens would set the floor to; 0 if one of them cannot be
  /// encoded, so that the whole batch says which.
  private func guess(
    _ input: EncodeInput, tokens: Int, wanted: Int, exempt: Int, _ workspace: EncodeWorkspace
  ) -> Float {
    let sampled = min(tokens, 128)
    var sample: [Float] = []
    sample.reserveCapacity(sampled * dModel)
    for number in 0..<sampled {
      let token = tokens * number / sampled
      sample += input.activations[token * dModel..<(token + 1) * dModel]
    }
    let sampleWanted = max(1, wanted * sampled / tokens)
    let answer = sample.withUnsafeBufferPointer { sample in
      let k = min(input.granularity, 4 * ((wanted + tokens - 1) / tokens) + exempt)
      return encode(
        [EncodeInput(activations: sample, granularity: input.granularity, k: k)], in: workspace)[0]
    }
    guard case .success(var codes) = answer else { return 0 }
    if exempt > 0 { codes = codes.droppingLatents(exempt) }
    if let factor = options.batchGuessFactor { return (codes.values.max() ?? 0) * factor }
    return 0.97 * codes.largest(sampleWanted).threshold
  }
}
