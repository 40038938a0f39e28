internal import CGranuleKernels
internal import GranuleEncoder
internal import GranuleObjective
internal import GranuleStatistics
internal import GranuleTensors
internal import GranuleThreads

// The auxiliary loss, by which dead latents learn.
extension NestedStep {
  /// Reconstructs the full size's residual, held constant, by the best of the dead latents, without
  /// b_dec; the gradient reaches their encoder and decoder.
  ///
  /// - Returns: the auxiliary loss.
  func reviveDead(
    _ batch: FloatStorage, tokens: Int, dead: [Int], _ objective: StepObjective
  ) throws(EncodingError) -> Double {
    let variance = ColumnMoments.variance(of: residuals.pointer, rows: tokens, columns: dModel)
    let deadWeights = copyWeights(of: dead)
    let input = EncodeInput(
      activations: UnsafeBufferPointer(start: batch.pointer, count: tokens * dModel),
      granularity: dead.count, k: objective.auxiliaryK(dModel: dModel, dead: dead.count))
    let codes = try LiveEncoder(deadWeights.lent).lend(.topk, history: ScreeningHistory())
      .encode([input], in: workspace)[0].get()
    let products = FloatStorage(count: codes.indices.count)
    let squaredErrors = decodeDead(
      codes, deadWeights, scale: Float(2 * objective.auxiliaryCoefficient / variance),
      products: products)
    let sorted = auxiliaryEntries ?? LatentEntries(latents: latents)
    auxiliaryEntries = sorted
    codes.values.withUnsafeBufferPointer { values in
      guard let values = values.baseAddress else { return }
      sorted.fill(
        LatentEntries.Codes(
          codes: codes, values: values, gradients: products.pointer, products: products.pointer,
          thresholds: nil, latentIndices: dead.map { UInt32($0) }))
    }
    return squaredErrors.values.reduce(0.0) { $0 + Double($1) } / variance
  }

  /// The weights of the dead latents alone, in their order.
  private func copyWeights(of dead: [Int]) -> DictionaryWeights {
    let copy = DictionaryWeights(latents: dead.count, dModel: dModel)
    Parallel.forRanges(dead.count) { _, range in
      for row in range {
        let latent = dead[row]
        (copy.encoder.pointer + row * dModel)
          .update(from: weights.encoder.pointer + latent * dModel, count: dModel)
        (copy.decoder.pointer + row * dModel)
          .update(from: weights.decoder.pointer + latent * dModel, count: dModel)
        copy.encoderBias.pointer[row] = weights.encoderBias.pointer[latent]
      }
    }
    copy.decoderBias.pointer.update(from: weights.decoderBias.pointer, count: dModel)
    return copy
  }

  /// Decodes the dead latents' codes, and turns what they leave of the residuals into what it sends
  /// back, after the last block of `returnedStrips`.
  ///
  /// - Parameter products: receives what each code's pre-activation receives: [nonzeros].
  /// - Returns: Σ‖e − ê‖² of each token: [tokens].
  private func decodeDead(
    _ codes: SparseCodes, _ dead: DictionaryWeights, scale: Float, products: FloatStorage
  ) -> FloatStorage {
    let tokens = codes.tokens
    let noBias = FloatStorage(count: dModel)
    let noBlocks = [UInt32](repeating: 0, count: dead.latents)
    let squaredErrors = FloatStorage(count: tokens)
    let (stripStride, slab) = (stripStride(tokens), slab(tokens))
    codes.indices.withUnsafeBufferPointer { indices in
      codes.values.withUnsafeBufferPointer { values in
        codes.rowOffsets.withUnsafeBufferPointer { rowOffsets in
          Parallel.forBlocks(tokens, size: Self.blockTokens) { thread, range in
            let row = tokenRows[thread].pointer
            let sum = row + dModel
            var scale = scale
            for token in range {
              let start = Int(rowOffsets[token])
              let count = Int(rowOffsets[token + 1]) - start
              let latents = indices.baseAddress.map { $0 + start }
              var all = UInt32(dead.latents)
              let residual = residuals.pointer + token * dModel
              gk_nested_decode(
                dead.decoder.pointer, noBias.pointer, dModel, latents,
                values.baseAddress.map { $0 + start }, count, &all, 1, residual, 1, 0, sum,
                squaredErrors.pointer + token, row, dModel)
              gk_suffix_residuals(row, 1, dModel, residual, &scale)
              gk_latent_products(
                dead.decoder.pointer, dModel, latents, count, noBlocks, row,
                products.pointer + start)
              gk_cut_row(
                row, dModel,
                returnedStrips.pointer + granularities.count * slab + token * Self.stripColumns,
                stripStride)
            }
          }
        }
      }
    }
    return squaredErrors
  }
}
