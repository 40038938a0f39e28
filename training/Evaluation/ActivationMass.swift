internal import Glibc

/// Activation mass by latent index: nested training shows as plateaus between granularities, an
/// ordered dictionary as a fall.
public struct ActivationMass: Sendable {
  /// Consecutive latents.
  public struct Bin: Sendable {
    /// Their indices.
    public var latents: Range<Int>
    /// The mean over them of E[z_j²] · ‖W_dec[j]‖².
    public var meanSquaredActivation: Double
    /// The mean over them of E[1{z_j > 0}].
    public var frequency: Double
  }

  /// Bins that cover all latents, growing with the index; none reaches across a granularity.
  public let bins: [Bin]
  private let cumulative: [Double]

  /// - Parameters:
  ///   - granularities: ascending, each 1 … latents.
  ///   - binsPerDecade: largest number of bins for each factor of ten in the index.
  public init(_ statistics: LatentStatistics, granularities: [Int], binsPerDecade: Int = 40) {
    let squares = statistics.meanSquaredActivations
    let frequencies = statistics.frequencies
    let count = squares.count
    var ends = Set(granularities + [count])
    let factor = pow(10, 1 / Double(binsPerDecade))
    var end = 1.0
    while end < Double(count) {
      ends.insert(Int(end))
      end = max(end + 1, end * factor)
    }
    var start = 0
    bins = ends.sorted().map { end in
      defer { start = end }
      let width = Double(end - start)
      return Bin(
        latents: start..<end,
        meanSquaredActivation: squares[start..<end].reduce(0, +) / width,
        frequency: frequencies[start..<end].reduce(0, +) / width)
    }
    var total = 0.0
    cumulative =
      [0]
      + squares.map {
        total += $0
        return total
      }
  }

  /// The share of all mass that the first latents have; nil if no latent is ever active.
  public func share(ofFirst granularity: Int) -> Double? {
    let total = cumulative[cumulative.count - 1]
    return total > 0 ? cumulative[granularity] / total : nil
  }
}
