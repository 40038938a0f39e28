internal import CGranuleKernels
internal import GranuleTensors
internal import GranuleThreads

// The gradient of a batch, summed latent by latent.
extension NestedStep {
  func accumulate(tokens: Int, auxiliary: LatentEntries?, frozenEncoders: Int) {
    let latents = latents
    let strips = Self.strips(dModel)
    let slab = slab(tokens)
    sumOverLatents(auxiliary)
    blockOfLatent.withUnsafeBufferPointer { blocks in
      let problem = gk_gradients(
        latents: latents, d_model: dModel, inputs: inputStrips.pointer,
        returned: returnedStrips.pointer, slab_stride: slab,
        entries: (
          entries.kernelEntries, auxiliary?.kernelEntries ?? gk_entries()
        ), blocks: blocks.baseAddress, auxiliary_block: granularities.count,
        is_zero: gradient.isZero.baseAddress, encoder: gradient.weights.encoder.pointer,
        decoder: gradient.weights.decoder.pointer, squared_norms: squaredNorms.pointer)
      let chunks = min(4, latents)
      Parallel.forBlocks(strips * chunks, size: 1) { _, range in
        var problem = problem
        for task in range {
          let (strip, chunk) = task.quotientAndRemainder(dividingBy: chunks)
          gk_strip_gradients(
            &problem, strip, latents * chunk / chunks, latents * (chunk + 1) / chunks)
        }
      }
    }
    for latent in 0..<latents {
      let isActive =
        !entries.range(of: latent).isEmpty || !(auxiliary?.range(of: latent).isEmpty ?? true)
      gradient.isZero[latent] = isActive ? 0 : 1
    }
    sumDecoderBias(tokens: tokens)
    gradient.weights.encoder.pointer.update(repeating: 0, count: frozenEncoders * dModel)
    gradient.squaredNorm = squaredNorm(frozenEncoders: frozenEncoders)
  }

  /// Sums over each latent's entries that need no rows.
  func sumOverLatents(_ auxiliary: LatentEntries?) {
    let gradient = gradient
    let thresholds = gradient.weights.thresholds
    Parallel.forBlocks(latents, size: 256) { _, range in
      for latent in range {
        var (bias, along, threshold): (Float, Float, Float) = (0, 0, 0)
        var isActive: UInt8 = 0
        for i in entries.range(of: latent) {
          bias += entries.entries[i].gradient
          along += entries.entries[i].value * entries.details[i].product
          threshold += entries.details[i].threshold
          if entries.entries[i].value > 0 { isActive = 1 }
        }
        if let auxiliary {
          for i in auxiliary.range(of: latent) {
            bias += auxiliary.entries[i].gradient
            along += auxiliary.entries[i].value * auxiliary.details[i].product
          }
        }
        wasActive[latent] = isActive
        gradient.weights.encoderBias.pointer[latent] = bias
        gradient.alongDecoder.pointer[latent] = along
        thresholds?.pointer[latent] = threshold
      }
    }
  }

  /// b_dec is in every reconstruction, and with the other sign in every encoder input.
  func sumDecoderBias(tokens: Int) {
    let strips = Self.strips(dModel)
    let sums = FloatStorage(count: strips * Self.stripColumns)
    for strip in 0..<strips {
      gk_strip_sum(
        returnedStrips.pointer + strip * stripStride(tokens), tokens,
        sums.pointer + strip * Self.stripColumns)
    }
    let blockRows = 256
    let blocks = (latents + blockRows - 1) / blockRows
    let partial = FloatStorage(count: blocks * dModel)
    Parallel.forBlocks(blocks, size: 1) { _, range in
      var rows: [UInt32] = []
      var biases: [Float] = []
      for block in range {
        rows.removeAll(keepingCapacity: true)
        biases.removeAll(keepingCapacity: true)
        for latent in block * blockRows..<min((block + 1) * blockRows, latents)
        where gradient.isZero[latent] == 0 {
          rows.append(UInt32(latent))
          biases.append(gradient.weights.encoderBias.pointer[latent])
        }
        gk_weighted_rows_sum(
          weights.encoder.pointer, dModel, rows, biases, rows.count,
          partial.pointer + block * dModel)
      }
    }
    for i in 0..<dModel {
      var sum = sums.pointer[i]
      for block in 0..<blocks { sum -= partial.pointer[block * dModel + i] }
      gradient.weights.decoderBias.pointer[i] = sum
    }
  }

  func squaredNorm(frozenEncoders: Int) -> Double {
    let strips = Self.strips(dModel)
    var total = 0.0
    for latent in 0..<latents where gradient.isZero[latent] == 0 {
      var rows = 0.0
      if latent < frozenEncoders {
        // The strips' sums have the encoder's row in them, which is not followed.
        let row = gradient.weights.decoder.pointer + latent * dModel
        rows = Double(gk_dot(row, row, dModel))
      } else {
        for strip in 0..<strips { rows += Double(squaredNorms.pointer[strip * latents + latent]) }
      }
      let along = Double(gradient.alongDecoder.pointer[latent])
      let bias = Double(gradient.weights.encoderBias.pointer[latent])
      let threshold = Double(gradient.weights.thresholds?.pointer[latent] ?? 0)
      total += max(rows - along * along, 0) + bias * bias + threshold * threshold
    }
    let bias = gradient.weights.decoderBias.pointer
    return total + Double(gk_dot(bias, bias, dModel))
  }
}
