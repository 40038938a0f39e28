internal import CGranuleKernels
internal import GranuleStatistics
public import GranuleDictionary
public import GranuleErrors
internal import GranuleTensors
internal import GranuleThreads

/// How much of one dictionary another has, too: for each latent of the one the largest cosine of its
/// encoder vector with one of the other's.
public struct EncoderOverlap: Sendable {
  /// [latents of the first]
  public let cosines: [Double]

  /// Compares on all cores.
  ///
  /// - Throws: `TrainingError` if d_model of both differ.
  public init(of first: SparseAutoencoder, in second: SparseAutoencoder) throws(TrainingError) {
    try self.init(
      of: first, rows: second.encoderWeights, count: second.latents, dModel: second.dModel)
  }

  /// With the dictionary's own other latents; nil if there is only one.
  public static func withinItself(_ dictionary: SparseAutoencoder) -> EncoderOverlap? {
    guard dictionary.latents > 1 else { return nil }
    // It has d_model in common with itself.
    return try? EncoderOverlap(
      of: dictionary, rows: dictionary.encoderWeights, count: dictionary.latents,
      dModel: dictionary.dModel, skipsOwnRow: true)
  }

  /// With as many directions drawn at random as `second` has latents: the overlap that is there
  /// for no reason.
  public static func randomDirections(
    of first: SparseAutoencoder, count: Int, seed: UInt64
  ) throws(TrainingError) -> EncoderOverlap {
    var generator = generator(seed)
    let rows = FloatStorage(count: count * first.dModel)
    for i in 0..<rows.count { rows.pointer[i] = Float(generator.normal()) }
    return try EncoderOverlap(of: first, rows: rows, count: count, dModel: first.dModel)
  }

  /// With `count` latents of `pool`, drawn at random: the overlap that any selection would have.
  ///
  /// - Throws: `TrainingError` if it has fewer, or another d_model.
  public static func randomLatents(
    of first: SparseAutoencoder, count: Int, from pool: SparseAutoencoder, seed: UInt64
  ) throws(TrainingError) -> EncoderOverlap {
    guard count <= pool.latents else {
      throw TrainingError(
        .invalid(
          field: "count", value: "\(count)", limit: "at most \(pool.latents)"),
        "\(count) latents are to be drawn, there are only \(pool.latents)")
    }
    var generator = generator(seed)
    var left = Array(0..<pool.latents)
    let rows = FloatStorage(count: count * pool.dModel)
    for row in 0..<count {
      left.swapAt(row, row + generator.below(left.count - row))
      (rows.pointer + row * pool.dModel)
        .update(
          from: pool.encoderWeights.pointer + left[row] * pool.dModel, count: pool.dModel)
    }
    return try EncoderOverlap(of: first, rows: rows, count: count, dModel: pool.dModel)
  }

  /// Another than that of a training of the same seed, whose initial weights would be found again.
  private static func generator(_ seed: UInt64) -> Xoshiro {
    Xoshiro(seed: seed ^ 0x2545_F491_4F6C_DD1D)
  }

  private init(
    of first: SparseAutoencoder, rows: FloatStorage, count: Int, dModel: Int,
    skipsOwnRow: Bool = false
  ) throws(TrainingError) {
    guard first.dModel == dModel else {
      throw TrainingError(.mismatch, "one has d_model \(first.dModel), the other \(dModel)")
    }
    func norm(_ row: UnsafePointer<Float>) -> Float {
      max(gk_dot(row, row, dModel).squareRoot(), .leastNormalMagnitude)
    }
    let norms = (0..<count).map { norm(rows.pointer + $0 * dModel) }
    let largest = FloatStorage(count: first.latents)
    Parallel.forRanges(first.latents) { _, range in
      for latent in range {
        let row = first.encoderWeights.pointer + latent * dModel
        var best = -Float.infinity
        for other in 0..<count where !skipsOwnRow || other != latent {
          best = max(best, gk_dot(row, rows.pointer + other * dModel, dModel) / norms[other])
        }
        largest.pointer[latent] = best / norm(row)
      }
    }
    cosines = largest.array.map(Double.init)
  }

  /// The mean of the cosines.
  public var mean: Double { cosines.reduce(0, +) / Double(max(cosines.count, 1)) }

  /// The share of latents whose cosine is at least `least`.
  public func share(atLeast least: Double) -> Double {
    Double(cosines.count { $0 >= least }) / Double(max(cosines.count, 1))
  }
}
