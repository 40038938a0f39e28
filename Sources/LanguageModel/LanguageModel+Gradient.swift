public import GranuleTensors

extension LanguageModel {
  /// The gradient of the mean next-token cross-entropy over the batch with respect to the residual
  /// stream before a layer.
  ///
  /// Sequences are taken in groups whose activations fit `storageBytesMax`; of a sequence that does
  /// not fit by itself, what the blocks next to `layer` need is computed again on the way back.
  ///
  /// - Parameters:
  ///   - hidden: [rows, d_model], the stream before `layer`: the model's own, or one with
  ///     reconstructions spliced in. Not changed.
  ///   - layer: 0 … blocks.
  ///   - storageBytesMax: of what is kept between going forwards and backwards.
  /// - Returns: every next token's cross-entropy, and the gradient, [rows, d_model].
  public func lossGradient(
    of batch: TokenBatch, at hidden: FloatStorage, before layer: Int,
    storageBytesMax: Int = 768 << 20
  ) -> (loss: NextTokenLoss, gradient: FloatStorage) {
    check(hidden, batch)
    precondition((0...configuration.blocks).contains(layer), "layer \(layer)")
    let d = configuration.dModel
    let result = FloatStorage(count: hidden.count)
    let predictions = batch.predictingRows.count
    guard predictions > 0 else { return (NextTokenLoss(crossEntropies: []), result) }
    let rowBytes = BlockPass.Tape.rowBytes(configuration)
    let blocks = configuration.blocks - layer
    let rowsMax = storageBytesMax / max(1, rowBytes * blocks)
    var losses: [Float] = []
    var sequence = 0
    while sequence < batch.sequences {
      let first = sequence
      repeat {
        sequence += 1
      } while sequence < batch.sequences
        && batch.starts[sequence + 1] - batch.starts[first] <= rowsMax
      let group = batch.selecting(first..<sequence)
      let start = batch.starts[first] * d
      let stream = FloatStorage(count: group.rows * d)
      stream.pointer.update(from: hidden.pointer + start, count: stream.count)
      let tapesMax = storageBytesMax / max(1, rowBytes * group.rows)
      let (loss, gradient) = lossGradient(
        of: group, consuming: stream, before: layer, scale: 1 / Double(predictions),
        tapesMax: max(1, tapesMax))
      losses += loss.crossEntropies
      (result.pointer + start).update(from: gradient.pointer, count: gradient.count)
    }
    return (NextTokenLoss(crossEntropies: losses), result)
  }

  private func lossGradient(
    of batch: TokenBatch, consuming stream: FloatStorage, before layer: Int, scale: Double,
    tapesMax: Int
  ) -> (loss: NextTokenLoss, gradient: FloatStorage) {
    let pass = BlockPass(weights, batch: batch, parallel, backwards: true)
    // Of blocks that must be computed again only the input is kept; one tape serves them all.
    let firstTaped = max(layer, configuration.blocks - tapesMax)
    var inputs: [FloatStorage] = []
    var tapes: [BlockPass.Tape] = []
    for block in layer..<configuration.blocks {
      if tapes.isEmpty || block > firstTaped {
        tapes.append(BlockPass.Tape(rows: batch.rows, configuration: configuration))
      }
      if block < firstTaped {
        let input = FloatStorage(count: stream.count)
        input.pointer.update(from: stream.pointer, count: stream.count)
        inputs.append(input)
      }
      pass.forward(stream, block: block, tape: tapes[tapes.count - 1])
    }
    let (loss, final) = lossAndGradient(final: stream, of: batch, scale: scale)
    guard let gradient = final else { preconditionFailure("a gradient was asked for") }
    for block in (layer..<configuration.blocks).reversed() {
      if block < firstTaped {
        pass.forward(inputs[block - layer], block: block, tape: tapes[0])
      }
      pass.backward(gradient, block: block, tape: tapes[max(0, block - firstTaped)])
    }
    return (loss, gradient)
  }
}
