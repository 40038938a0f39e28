import Foundation
import GranuleDictionary
import GranuleTensors
import GranuleThreads

/// A random dictionary with activations for it, for measurements; a seed always gives the same ones.
struct SyntheticActivations {
  /// The distribution of activations.
  enum Kind: String, CaseIterable {
    /// Independent normal dimensions.
    case gaussian
    /// Like a language model's residual stream: sparse sums of the dictionary's directions with
    /// noise, variance that falls by a power law, a mean, and a few dimensions far larger.
    case correlated
  }

  /// A TopK dictionary: encoder rows of unit norm, small biases, the decoder tied to the encoder.
  let dictionary: SparseAutoencoder
  /// [tokens, d_model]
  let activations: FloatStorage

  /// - Parameters:
  ///   - k: number of active latents per token of the whole dictionary.
  ///   - seed: seed of the random number generator.
  init(kind: Kind, dModel: Int, latents: Int, k: Int, tokens: Int, seed: UInt64) {
    let encoder = FloatStorage(count: latents * dModel)
    Parallel.forRanges(latents) { _, range in
      for latent in range {
        let row = encoder.pointer + latent * dModel
        var numbers = RandomNumbers(seed: seed, stream: .encoder, row: latent)
        numbers.direction(row, count: dModel)
      }
    }
    var numbers = RandomNumbers(seed: seed, stream: .biases, row: 0)
    let source =
      kind == .gaussian
      ? nil : ResidualStream(directions: encoder, dModel: dModel, numbers: &numbers)
    func draw(_ count: Int, _ stream: RandomNumbers.Stream) -> FloatStorage {
      let rows = FloatStorage(count: count * dModel)
      Parallel.forRanges(count) { _, range in
        for token in range {
          let row = rows.pointer + token * dModel
          var numbers = RandomNumbers(seed: seed, stream: stream, row: token)
          if let source {
            source.draw(row, &numbers)
          } else {
            for i in 0..<dModel { row[i] = numbers.normal() }
          }
        }
      }
      return rows
    }
    activations = draw(tokens, .activations)
    // A trained dictionary has the mean and deviation of its training tokens.
    let (mean, deviation) = Self.statistics(draw(1024, .training), dModel: dModel)
    var parts = SparseAutoencoder.Parts(
      encoderWeights: encoder,
      encoderBias: FloatStorage((0..<latents).map { _ in 0.05 * numbers.normal() }),
      decoderWeights: encoder, decoderBias: FloatStorage(mean), selectionRule: .topk(k: k))
    parts.activationMean = mean
    parts.activationDeviation = deviation
    dictionary = SparseAutoencoder(parts)
  }

  private static func statistics(
    _ rows: FloatStorage, dModel: Int
  ) -> (mean: [Float], deviation: [Float]) {
    let count = Double(rows.count / dModel)
    var sums = [Double](repeating: 0, count: dModel)
    var squares = sums
    for (index, value) in rows.values.enumerated() {
      sums[index % dModel] += Double(value)
      squares[index % dModel] += Double(value) * Double(value)
    }
    let deviation = zip(sums, squares).map { sum, square in
      Float((square / count - sum / count * (sum / count)).squareRoot())
    }
    return (sums.map { Float($0 / count) }, deviation)
  }
}

/// Random activations like those of a language model's residual stream.
private struct ResidualStream {
  /// Dictionary directions that an activation is a sum of, with log-normal coefficients.
  static let atoms = 50
  /// Norm of the noise, relative to that sum's.
  static let noise: Float = 0.3
  /// Dense directions whose standard deviations fall as 1/√rank, and the first's.
  static let denseDirections = 64
  static let denseDeviation: Float = 4
  /// Dimensions whose mean and deviation are far larger than the others'.
  static let outliers = 4
  static let outlierMean: Float = 30
  static let outlierDeviation: Float = 5

  /// [latents, d_model], of unit norm.
  let directions: FloatStorage
  let dModel: Int
  /// [denseDirections, d_model], of unit norm times their standard deviations.
  private let dense: FloatStorage
  private let mean: [Float]
  private let outlierDimensions: [Int]

  init(directions: FloatStorage, dModel: Int, numbers: inout RandomNumbers) {
    self.directions = directions
    self.dModel = dModel
    dense = FloatStorage(count: Self.denseDirections * dModel)
    for rank in 0..<Self.denseDirections {
      let row = dense.pointer + rank * dModel
      numbers.direction(row, count: dModel)
      let deviation = Self.denseDeviation / Float(rank + 1).squareRoot()
      for i in 0..<dModel { row[i] *= deviation }
    }
    outlierDimensions = (0..<min(Self.outliers, dModel)).map { _ in numbers.index(below: dModel) }
    var mean = (0..<dModel).map { _ in 0.3 * numbers.normal() }
    for dimension in outlierDimensions { mean[dimension] = Self.outlierMean * numbers.normal() }
    self.mean = mean
  }

  func draw(_ row: UnsafeMutablePointer<Float>, _ numbers: inout RandomNumbers) {
    func add(_ direction: UnsafePointer<Float>, times coefficient: Float) {
      for i in 0..<dModel { row[i] += coefficient * direction[i] }
    }
    for i in 0..<dModel { row[i] = 0 }
    let latents = directions.count / dModel
    for _ in 0..<Self.atoms {
      let direction = directions.pointer + numbers.index(below: latents) * dModel
      add(direction, times: exp(0.5 * numbers.normal()))
    }
    let squaredNorm = UnsafeBufferPointer(start: row, count: dModel).reduce(0) { $0 + $1 * $1 }
    let noise = Self.noise * (squaredNorm / Float(dModel)).squareRoot()
    for i in 0..<dModel { row[i] += noise * numbers.normal() + mean[i] }
    for rank in 0..<Self.denseDirections {
      add(dense.pointer + rank * dModel, times: numbers.normal())
    }
    for dimension in outlierDimensions {
      row[dimension] += Self.outlierDeviation * numbers.normal()
    }
  }
}

/// Random numbers (SplitMix64) of their own for each row, so that rows can be drawn in any order.
private struct RandomNumbers {
  enum Stream: UInt64 { case encoder, biases, activations, training }

  private var state: UInt64
  private var spare: Float?

  init(seed: UInt64, stream: Stream, row: Int) {
    state = seed
    for part in [stream.rawValue, UInt64(row)] { state = next() ^ part &* 0xD1B5_4A32_D192_ED03 }
  }

  private mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  /// In 0 ..< count.
  mutating func index(below count: Int) -> Int { Int(next() >> 1) % count }

  /// A value of the standard normal distribution, by the Box-Muller transform.
  mutating func normal() -> Float {
    if let spare {
      self.spare = nil
      return spare
    }
    let bits = next()
    let radius = (-2 * log((Float(bits >> 40) + 1) * 0x1p-24)).squareRoot()
    let angle = 2 * Float.pi * Float(bits & 0xFF_FFFF) * 0x1p-24
    spare = radius * sin(angle)
    return radius * cos(angle)
  }

  /// A random row of unit norm.
  mutating func direction(_ row: UnsafeMutablePointer<Float>, count: Int) {
    var squaredNorm: Float = 0
    for i in 0..<count {
      row[i] = normal()
      squaredNorm += row[i] * row[i]
    }
    let scale = 1 / squaredNorm.squareRoot()
    for i in 0..<count { row[i] *= scale }
  }
}
