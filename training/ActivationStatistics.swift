internal import Glibc
internal import Tensors

/// What training needs to know of activations before it starts.
struct ActivationStatistics: Equatable {
  /// The most tokens that are looked at: beyond, the mean's error is far below the data's spread.
  static let tokensMax = 1 << 18

  /// Mean of each dimension, raw: [d_model]
  var mean: [Float]
  /// √d_model / mean ‖x‖: activations times this have norm √d_model on average.
  var scale: Double

  /// Measures `dataset`, or `tokensMax` of its tokens at even distances.
  ///
  /// - Throws: `TrainingError` naming the first token that is not finite, or where all are zero.
  init(_ dataset: ActivationDataset) throws(TrainingError) {
    let dModel = dataset.dModel
    let count = min(dataset.tokens, Self.tokensMax)
    let row = FloatStorage(count: dModel)
    var sums = [Double](repeating: 0, count: dModel)
    var norms = 0.0
    for sample in 0..<count {
      let token = dataset.tokens * sample / count
      dataset.copyToken(token, into: row.pointer)
      var squares = 0.0
      for i in 0..<dModel {
        let value = Double(row.pointer[i])
        sums[i] += value
        squares += value * value
      }
      guard squares.isFinite else {
        throw TrainingError("\(dataset.describe(token: token)): the activation is not finite")
      }
      norms += squares.squareRoot()
    }
    guard norms > 0 else {
      throw TrainingError(
        "\(dataset.paths[0]): every activation is zero, there is nothing to learn")
    }
    mean = sums.map { Float($0 / Double(count)) }
    scale = Double(dModel).squareRoot() * Double(count) / norms
  }

  /// As a checkpoint stored them.
  init(mean: [Float], scale: Double) {
    self.mean = mean
    self.scale = scale
  }
}
