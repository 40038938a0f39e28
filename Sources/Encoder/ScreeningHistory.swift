internal import CGranuleKernels
internal import Synchronization

/// Decides whether screening pays, from the costs of its steps on this machine and the number of
/// latents that survived before.
package final class ScreeningHistory: Sendable {
  private struct Key: Hashable {
    var granularityOctave: Int
    var kOctave: Int
  }
  /// Moving mean of the share of latents that survive; fallbacks count by their cost.
  private let shares = Mutex<[Key: Double]>([:])

  /// A history of no blocks.
  package init() {}

  /// The path that will probably be faster.
  func fasterPath(_ encoder: QuantizedEncoder, granularity: Int, k: Int, tokens: Int) -> EncodePath
  {
    guard granularity > 2 * k else { return .exact }
    let costs = EncodeCosts.measured(dModel: encoder.dModel, cpu: encoder.cpu, tokens: tokens)
    // Lists and guesses take several times as long as quantising.
    let screening = 6 * costs.quantizing + costs.screening * Double(granularity)
    let scoring = costs.scoring * Double(granularity)
    guard screening + costs.rescoring * Double(k) < scoring else { return .exact }
    let key = Key(granularityOctave: granularity.octave, kOctave: k.octave)
    guard let share = shares.withLock({ $0[key] }) else { return .screened }
    return screening + costs.rescoring * share * Double(granularity) < scoring ? .screened : .exact
  }

  /// Learns from a block of screened tokens.
  func learn(
    _ counters: EncodeWorkspace.Counters, _ encoder: QuantizedEncoder, granularity: Int, k: Int
  ) {
    guard counters.screenedTokens > 0 else { return }
    let costs = EncodeCosts.measured(
      dModel: encoder.dModel, cpu: encoder.cpu, tokens: counters.screenedTokens)
    let again = Double(counters.fallbacks) * costs.scoring * Double(granularity)
    let share =
      (Double(counters.survivors) + again / costs.rescoring)
      / Double(counters.screenedTokens * granularity)
    let key = Key(granularityOctave: granularity.octave, kOctave: k.octave)
    shares.withLock { $0[key] = $0[key].map { 0.75 * $0 + 0.25 * share } ?? share }
  }
}

extension Int {
  /// The number of bits that it takes: numbers of one octave differ by less than a factor of two.
  fileprivate var octave: Int { Int.bitWidth - leadingZeroBitCount }
}
