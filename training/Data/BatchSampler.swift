package import GranuleErrors
internal import GranuleStatistics
package import GranuleTensors

/// The order in which tokens are trained on: every epoch all of them, shuffled. A function of seed
/// and step alone, so that a resumed run sees what the uninterrupted one would have.
///
/// Chunks of consecutive tokens are shuffled over all shards; a window is a number of chunks, whose
/// tokens are shuffled among themselves. So a batch mixes hundreds of places, and yet shards larger than memory
/// are read about once an epoch: what is in use at a time is a window. Data of less than a
/// window are shuffled token by token.
package struct BatchSampler {
  /// Consecutive tokens that stay together until their window.
  package static let chunkTokens = 128
  /// 65,536 tokens a window.
  package static let windowChunks = 512

  let dataset: ActivationDataset
  private let scale: Float
  private let seed: UInt64
  private var epoch = -1
  private var chunks: [UInt32] = []
  /// Where each window begins within the epoch, and the epoch's end.
  private var windowStarts: [Int] = []
  private var window = -1
  /// The window's tokens in the order in which they are trained on.
  private var order: [Int] = []

  package init(_ dataset: ActivationDataset, scale: Double, seed: UInt64) throws(TrainingError) {
    guard dataset.tokens / Self.chunkTokens < Int(UInt32.max) else {
      throw TrainingError(
        .invalid(
          field: "activations", value: "\(dataset.tokens) tokens", limit: "at most 2^39"),
        "\(dataset.tokens) tokens are more than 2^39, which one run can shuffle")
    }
    self.dataset = dataset
    self.scale = Float(scale)
    self.seed = seed
  }

  /// Reads the tokens of a step, scaled, into `batch`: [tokens, d_model].
  ///
  /// - Returns: the tokens' indices in the dataset.
  package mutating func read(step: Int, into batch: FloatStorage) -> [Int] {
    let dModel = dataset.dModel
    let count = batch.count / dModel
    return (0..<count).map { row in
      let token = index(at: step * count + row)
      let output = batch.pointer + row * dModel
      dataset.copyToken(token, into: output)
      for i in 0..<dModel { output[i] *= scale }
      return token
    }
  }

  /// The token at a position of the run; positions are asked for in ascending order, or the work of
  /// their epoch and window is done anew.
  package mutating func index(at position: Int) -> Int {
    let (needed, offset) = position.quotientAndRemainder(dividingBy: dataset.tokens)
    if needed != epoch { beginEpoch(needed) }
    if !isInWindow(offset) {
      beginWindow(windowStarts.partitioningIndex { $0 > offset } - 1)
    }
    return order[offset - windowStarts[window]]
  }

  private func isInWindow(_ offset: Int) -> Bool {
    window >= 0 && windowStarts[window] <= offset && offset < windowStarts[window + 1]
  }

  private func tokens(ofChunk chunk: UInt32) -> Range<Int> {
    let start = Int(chunk) * Self.chunkTokens
    return start..<min(start + Self.chunkTokens, dataset.tokens)
  }

  private mutating func beginEpoch(_ number: Int) {
    epoch = number
    window = -1
    var generator = Xoshiro(seed: seed &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(number))
    let count = (dataset.tokens + Self.chunkTokens - 1) / Self.chunkTokens
    chunks = (0..<UInt32(count)).map { $0 }
    chunks.shuffle(with: &generator)
    windowStarts = [0]
    for start in stride(from: 0, to: count, by: Self.windowChunks) {
      let tokens = chunks[start..<min(start + Self.windowChunks, count)].reduce(0) {
        $0 + self.tokens(ofChunk: $1).count
      }
      windowStarts.append(windowStarts[windowStarts.count - 1] + tokens)
    }
  }

  private mutating func beginWindow(_ number: Int) {
    window = number
    var generator = Xoshiro(
      seed: (seed &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(epoch)) &* 0xBF58_476D_1CE4_E5B9
        &+ UInt64(number))
    let start = number * Self.windowChunks
    order = chunks[start..<min(start + Self.windowChunks, chunks.count)].flatMap {
      Array(tokens(ofChunk: $0))
    }
    order.shuffle(with: &generator)
  }
}

extension Array {
  /// Fisher and Yates.
  mutating func shuffle(with generator: inout Xoshiro) {
    for last in stride(from: count - 1, to: 0, by: -1) {
      swapAt(last, generator.below(last + 1))
    }
  }

  /// The first index whose element satisfies `isBeyond`, which those before do not.
  fileprivate func partitioningIndex(where isBeyond: (Element) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if isBeyond(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
