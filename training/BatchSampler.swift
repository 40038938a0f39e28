internal import Tensors

/// The order in which tokens are trained on: every epoch all of them, shuffled. A function of seed
/// and step alone, so that a resumed run sees what the uninterrupted one would have.
struct BatchSampler {
  private let dataset: ActivationDataset
  private let scale: Float
  private let seed: UInt64
  private var epoch = -1
  private var order: [UInt32] = []

  init(_ dataset: ActivationDataset, scale: Double, seed: UInt64) throws(TrainingError) {
    guard dataset.tokens <= Int(UInt32.max) else {
      throw TrainingError("\(dataset.tokens) tokens are more than 2^32, which one run can shuffle")
    }
    self.dataset = dataset
    self.scale = Float(scale)
    self.seed = seed
  }

  /// Reads the tokens of a step, scaled, into `batch`: [tokens, d_model].
  ///
  /// - Returns: the tokens' indices in the dataset.
  mutating func read(step: Int, into batch: FloatStorage) -> [Int] {
    let dModel = dataset.dModel
    let count = batch.count / dModel
    let indices = (0..<count).map { index(at: step * count + $0) }
    Parallel.forRanges(count) { _, range in
      for row in range {
        let output = batch.pointer + row * dModel
        dataset.copyToken(indices[row], into: output)
        for i in 0..<dModel { output[i] *= scale }
      }
    }
    return indices
  }

  private mutating func index(at position: Int) -> Int {
    let (needed, offset) = position.quotientAndRemainder(dividingBy: dataset.tokens)
    if needed != epoch {
      epoch = needed
      var generator = Xoshiro(seed: seed &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(needed))
      order = (0..<UInt32(dataset.tokens)).map { $0 }
      for last in stride(from: order.count - 1, to: 0, by: -1) {
        order.swapAt(last, generator.below(last + 1))
      }
    }
    return Int(order[offset])
  }
}
