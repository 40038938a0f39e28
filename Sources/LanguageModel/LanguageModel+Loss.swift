internal import CGranuleKernels
internal import Glibc
internal import GranuleBLAS
public import GranuleTensors
internal import GranuleThreads

/// How well a model predicts each next token of a batch.
public struct NextTokenLoss: Sendable {
  /// Cross-entropy in nats of the token after each predicting row, in the order of
  /// `TokenBatch.predictingRows`.
  public let crossEntropies: [Float]

  /// Sum of `crossEntropies`.
  public var sum: Double { crossEntropies.reduce(0) { $0 + Double($1) } }
  /// Mean of `crossEntropies`; 0 where nothing is predicted.
  public var mean: Double { crossEntropies.isEmpty ? 0 : sum / Double(crossEntropies.count) }
}

extension LanguageModel {
  /// Columns of logits that are held at a time where only the loss is needed.
  private static let tileColumns = 2048

  /// Cross-entropy of every next token.
  ///
  /// - Parameter final: [rows, d_model], the stream after the last block.
  public func nextTokenLoss(final hidden: FloatStorage, of batch: TokenBatch) -> NextTokenLoss {
    lossAndGradient(final: hidden, of: batch, scale: nil).loss
  }

  /// Logits of the token after each of some rows: [rows.count, vocabulary].
  ///
  /// - Parameter final: [rows, d_model], the stream after the last block.
  public func logits(final hidden: FloatStorage, rows: Range<Int>) -> FloatStorage {
    let (d, vocabulary) = (configuration.dModel, configuration.vocabulary)
    precondition(rows.lowerBound >= 0 && rows.upperBound * d <= hidden.count)
    let result = FloatStorage(count: rows.count * vocabulary)
    parallel.forBlocks(rows.count, size: BlockPass.blockRows(rows.count, parallel)) { _, range in
      let normed = normalized(hidden, rows: range.map { rows.lowerBound + $0 })
      MatrixProduct.linear(
        normed.pointer, weights.output.pointer, rows: range.count, inputs: d, outputs: vocabulary,
        into: result.pointer + range.lowerBound * vocabulary)
    }
    return result
  }

  /// The stream after the final norm: [rows.count, d_model].
  ///
  /// - Parameter final: [rows, d_model], the stream after the last block.
  public func normalized(_ hidden: FloatStorage, rows: [Int]) -> FloatStorage {
    let d = configuration.dModel
    let result = FloatStorage(count: rows.count * d)
    for (number, row) in rows.enumerated() {
      gk_rms_norm(
        hidden.pointer + row * d, weights.outputNorm.pointer, configuration.rmsEpsilon, d,
        result.pointer + number * d)
    }
    return result
  }

  /// Cross-entropies and, where `scale` is given, the gradient of scale · their sum with respect to
  /// `hidden`, [rows, d_model].
  ///
  /// Logits exist for a block of rows a thread: with a gradient all their columns, which two products
  /// share; else some columns at a time.
  func lossAndGradient(
    final hidden: FloatStorage, of batch: TokenBatch, scale: Double?
  ) -> (loss: NextTokenLoss, gradient: FloatStorage?) {
    check(hidden, batch)
    let (d, vocabulary) = (configuration.dModel, configuration.vocabulary)
    let rows = batch.predictingRows
    let gradient = scale.map { _ in FloatStorage(count: hidden.count) }
    let width = scale == nil ? min(Self.tileColumns, vocabulary) : vocabulary
    let blockRows = BlockPass.blockRows(rows.count, parallel)
    let scratch = (0..<parallel.threads).map { _ in FloatStorage(count: blockRows * width) }
    var losses = [Float](repeating: 0, count: rows.count)
    losses.withUnsafeMutableBufferPointer { losses in
      let losses = losses
      parallel.forBlocks(rows.count, size: blockRows) { thread, range in
        let count = range.count
        let normed = normalized(hidden, rows: Array(rows[range]))
        let logits = scratch[thread].pointer
        var running = [RunningLogSumExp](repeating: RunningLogSumExp(), count: count)
        var targetLogits = [Float](repeating: 0, count: count)
        for start in stride(from: 0, to: vocabulary, by: Self.tileColumns) {
          let columns = min(Self.tileColumns, vocabulary - start)
          let tile = scale == nil ? logits : logits + start
          BLAS.multiply(
            .init(normed.pointer, stride: d),
            .init(weights.output.pointer + start * d, stride: d, transposed: true), rows: count,
            columns: columns, inner: d, into: tile, stride: width)
          for row in 0..<count {
            let target = Int(batch.tokens[rows[range.lowerBound + row] + 1]) - start
            if (0..<columns).contains(target) { targetLogits[row] = tile[row * width + target] }
            if scale == nil { running[row].consume(tile + row * width, count: columns) }
          }
        }
        for row in 0..<count {
          let values = logits + row * width
          let place = range.lowerBound + row
          guard let scale else {
            losses[place] = Float(running[row].value - Double(targetLogits[row]))
            continue
          }
          // softmax − one-hot of the target, in place.
          let maximum = gk_maximum(values, vocabulary)
          let sum = gk_exponentials(values, vocabulary, maximum, 1)
          losses[place] = Float(Double(maximum) + log(sum) - Double(targetLogits[row]))
          gk_scale(values, vocabulary, Float(scale / sum))
          values[Int(batch.tokens[rows[place] + 1])] -= Float(scale)
        }
        guard let gradient else { return }
        let normedGradient = FloatStorage(count: count * d)
        MatrixProduct.linearGradient(
          logits, weights.output.pointer, rows: count, inputs: d, outputs: vocabulary,
          into: normedGradient.pointer)
        for row in 0..<count {
          let place = rows[range.lowerBound + row] * d
          gk_rms_norm_gradient(
            hidden.pointer + place, weights.outputNorm.pointer, configuration.rmsEpsilon, d,
            normedGradient.pointer + row * d, gradient.pointer + place)
        }
      }
    }
    return (NextTokenLoss(crossEntropies: losses), gradient)
  }
}

/// log Σ e^v over values that come in parts.
private struct RunningLogSumExp {
  private var maximum = -Float.infinity
  private var sum = 0.0

  /// Takes in `values`, which it overwrites.
  mutating func consume(_ values: UnsafeMutablePointer<Float>, count: Int) {
    let largest = gk_maximum(values, count)
    if largest > maximum {
      sum *= exp(Double(maximum) - Double(largest))
      maximum = largest
    }
    sum += gk_exponentials(values, count, maximum, 1)
  }

  var value: Double { Double(maximum) + log(sum) }
}
