package import GranuleLanguageModel
package import GranuleTensors

/// Text cut into batches whose residual stream is taken apart, encoded, and put together again.
package enum SpliceBatches {
  /// Tokens that go through the model together, at most, but for a single sequence.
  private static let tokensMax = 2048

  /// - Throws: `LanguageModelError` if the model cannot take a sequence.
  package static func of(_ sequences: [[Int32]], for shape: LlamaConfiguration) throws
    -> [TokenBatch]
  {
    var batches: [TokenBatch] = []
    var next: [[Int32]] = []
    var tokens = 0
    for sequence in sequences {
      if !next.isEmpty, tokens + sequence.count > tokensMax {
        batches.append(try TokenBatch(next, for: shape))
        next = []
        tokens = 0
      }
      next.append(sequence)
      tokens += sequence.count
    }
    if !next.isEmpty { batches.append(try TokenBatch(next, for: shape)) }
    return batches
  }

  /// Some rows of a stream, one after the other: [rows.count, d_model].
  package static func gather(_ rows: [Int], of stream: FloatStorage, dModel: Int) -> FloatStorage {
    let result = FloatStorage(count: rows.count * dModel)
    for (number, row) in rows.enumerated() {
      (result.pointer + number * dModel)
        .update(from: stream.pointer + row * dModel, count: dModel)
    }
    return result
  }
}
