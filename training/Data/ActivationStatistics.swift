internal import Glibc
package import GranuleErrors
internal import GranuleStatistics
internal import GranuleTensors

/// What training needs to know of activations before it begins.
public struct ActivationStatistics: Sendable, Equatable {
  /// The most tokens that are looked at: with more, the mean's error is far below the data's spread.
  static let tokensMax = 1 << 18

  /// Mean of each dimension, raw: [d_model]
  public var mean: [Float]
  /// Standard deviation of each dimension, raw: [d_model]
  public var deviation: [Float]
  /// √d_model / mean ‖x‖: activations times this have norm √d_model on average.
  public var scale: Double

  /// Measures `dataset`, or `tokensMax` of its tokens at even distances.
  ///
  /// - Throws: `TrainingError` naming the first token that is not finite, or if all are the same.
  package init(_ dataset: ActivationDataset) throws(TrainingError) {
    let (mean, deviation, meanNorm, variance) = try Self.measure(dataset)
    guard variance > 0 else {
      throw TrainingError(
        .unusable(input: dataset.paths[0]),
        "\(dataset.paths[0]): every activation is the same, there is nothing to learn")
    }
    self.mean = mean
    self.deviation = deviation
    scale = Double(dataset.dModel).squareRoot() / meanNorm
  }

  /// Looks at a dataset as `init` does.
  ///
  /// - Throws: `TrainingError` naming the first token that is not finite.
  package static func measure(
    _ dataset: ActivationDataset
  ) throws(TrainingError) -> (
    mean: [Float], deviation: [Float], meanNorm: Double, variance: Double
  ) {
    let dModel = dataset.dModel
    let count = min(dataset.tokens, tokensMax)
    let row = FloatStorage(count: dModel)
    var moments = ColumnMoments(columns: dModel, isShifted: false)
    var (norms, squaredNorms) = (0.0, 0.0)
    for sample in 0..<count {
      let token = dataset.tokens * sample / count
      dataset.copyToken(token, into: row.pointer)
      var squares = 0.0
      for i in 0..<dModel {
        let value = Double(row.pointer[i])
        squares += value * value
      }
      guard squares.isFinite else {
        throw TrainingError(
          .unusable(input: dataset.describe(token: token)),
          "\(dataset.describe(token: token)): the activation is not finite")
      }
      moments.add(row.pointer, rows: 1)
      norms += squares.squareRoot()
      squaredNorms += squares
    }
    let mean = moments.means
    let variance = squaredNorms / Double(count) - mean.reduce(0) { $0 + $1 * $1 }
    // What is less than the rounding of sums this long is none.
    let least = 1e-12 * squaredNorms / Double(count)
    return (
      mean.map { Float($0) }, moments.deviations.map { Float($0) }, norms / Double(count),
      variance > least ? variance : 0
    )
  }

  /// Statistics that were measured before.
  public init(mean: [Float], deviation: [Float], scale: Double) {
    self.mean = mean
    self.deviation = deviation
    self.scale = scale
  }
}
