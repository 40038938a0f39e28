internal import CGranuleKernels
internal import GranuleTensors

extension SparseAutoencoder {
  /// x̂ = b_dec + Σ_j z_j W_dec[j] for each token of `codes`.
  ///
  /// - Parameter output: [tokens, d_model] float32, in raw scale.
  /// - Throws: `DecodingError` where a latent is not in memory, or the dictionary normalises its
  ///   inputs.
  public func decode(
    _ codes: SparseCodes, into output: UnsafeMutablePointer<Float>
  ) throws(DecodingError) {
    guard inputNormalization == .none else { throw .needsActivations(inputNormalization) }
    for token in 0..<codes.tokens {
      // Indices ascend, so the last is the largest.
      let end = Int(codes.rowOffsets[token + 1])
      if end > codes.rowOffsets[token], codes.indices[end - 1] >= UInt32(latents) {
        throw .latent(codes.indices[end - 1], token: token, latents: latents)
      }
    }
    let sum = FloatStorage(count: dModel)
    withCode(codes) { token, indices, values, active in
      var granularity = UInt32(latents)
      gk_nested_decode(
        decoderWeights.pointer, decoderBias.pointer, dModel, indices, values, active, &granularity,
        1, nil, 1, 0, sum.pointer, nil, output + token * dModel, 0)
    }
  }

  /// What every prefix of the dictionary makes of the codes, in one pass over the active latents.
  ///
  /// - Parameters:
  ///   - codes: of the tokens of `activations`; latents in memory only.
  ///   - activations: [tokens, d_model] float32, raw.
  ///   - granularities: ascending, each 1 … latents.
  ///   - squaredErrors: receives ‖x − x̂_G‖², [granularities, tokens].
  ///   - reconstructions: nil, or receives x̂_G in raw scale, [granularities, tokens, d_model].
  public func nestedDecode(
    _ codes: SparseCodes, activations: UnsafeBufferPointer<Float>, granularities: [Int],
    squaredErrors: UnsafeMutablePointer<Float>, reconstructions: UnsafeMutablePointer<Float>? = nil
  ) {
    let tokens = codes.tokens
    precondition(activations.count == tokens * dModel)
    guard let start = activations.baseAddress else { return }
    let prefixes = granularities.map { UInt32($0) }
    var errors = [Float](repeating: 0, count: prefixes.count)
    let sum = FloatStorage(count: dModel)
    withCode(codes) { token, indices, values, active in
      let activation = start + token * dModel
      let transform = tokenTransform(activation)
      gk_nested_decode(
        decoderWeights.pointer, decoderBias.pointer, dModel, indices, values, active, prefixes,
        prefixes.count, activation, transform.outputScale, transform.outputShift, sum.pointer,
        &errors, reconstructions.map { $0 + token * dModel }, tokens * dModel)
      for prefix in 0..<prefixes.count { squaredErrors[prefix * tokens + token] = errors[prefix] }
    }
  }

  private func withCode(
    _ codes: SparseCodes,
    _ body: (Int, UnsafePointer<UInt32>, UnsafePointer<Float>, Int) -> Void
  ) {
    codes.indices.withUnsafeBufferPointer { indices in
      codes.values.withUnsafeBufferPointer { values in
        for token in 0..<codes.tokens {
          let start = Int(codes.rowOffsets[token])
          let active = Int(codes.rowOffsets[token + 1]) - start
          // An empty array may have no address; a token without latents reads none.
          guard active > 0, let index = indices.baseAddress, let value = values.baseAddress else {
            withUnsafePointer(to: UInt32(0)) { index in
              withUnsafePointer(to: Float(0)) { body(token, index, $0, 0) }
            }
            continue
          }
          body(token, index + start, value + start, active)
        }
      }
    }
  }
}
