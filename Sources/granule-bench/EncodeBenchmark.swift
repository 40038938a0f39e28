import Foundation
import GranuleDictionary
import GranuleEncoder
import GranuleStatistics
import GranuleTensors

/// Measures encoding of a dictionary's activations, and the dense baseline's, in turns.
struct EncodeBenchmark {
  /// The least number of tokens whose codes are compared, and that small batches are drawn from.
  static let checkedTokens = 64
  /// Time for which short calls are repeated in a turn.
  private static let turnSeconds = 0.05

  let encoder: SparseEncoder
  /// [tokens, d_model], at least the largest batch.
  let activations: FloatStorage
  let threads: Int
  let repetitions: Int
  private let workspace: EncodeWorkspace

  init(
    encoder: SparseEncoder, activations: FloatStorage, threads: Int, repetitions: Int
  ) {
    self.encoder = encoder
    self.activations = activations
    self.threads = threads
    self.repetitions = repetitions
    workspace = EncodeWorkspace(threads: threads)
  }

  /// The measurement of one batch at one granularity.
  struct Row {
    let batch: Int
    let granularity: Int
    let k: Int
    /// Median time of a call.
    let milliseconds: Double
    /// Median time of a call of the baseline.
    let denseMilliseconds: Double
    /// Mean over the checked tokens that were screened; nil if none was.
    let survivorsPerToken: Double?
    /// Number of checked tokens that were screened in vain.
    let fallbacks: Int
    let checkedTokens: Int
    let tiedTokens: Int
    let differingTokens: Int
    /// Sum of the active latents' values over the checked tokens.
    let valueSum: Double
    var speedup: Double { denseMilliseconds / milliseconds }
  }

  /// - Throws: `EncodingError` for activations that cannot be encoded; `CommandError.input` for
  ///   a dictionary that the baseline cannot encode.
  func measure(batch: Int, granularity: Int, k: Int) throws -> Row {
    let dictionary = encoder.dictionary
    let baseline = try DenseEncodeBaseline(
      dictionary, granularity: granularity, k: k, threads: threads)
    let dModel = dictionary.dModel
    let tokens = activations.count / dModel
    func ours(_ call: Int) throws -> SparseCodes {
      let start = call * batch % (tokens - batch + 1)
      let rows = UnsafeBufferPointer(
        start: activations.pointer + start * dModel, count: batch * dModel)
      return try encoder.encode(
        EncodeInput(activations: rows, granularity: granularity, k: k), in: workspace)
    }
    func theirs(_ call: Int) -> DenseEncodeBaseline.Codes {
      let start = call * batch % (tokens - batch + 1)
      return baseline.encode(activations.pointer + start * dModel, tokens: batch)
    }

    // The first call warms up, the second says how many make a turn.
    _ = try seconds(calls: 1) { _ = try ours($0) }
    _ = seconds(calls: 1) { _ = theirs($0) }
    let ourCalls = Self.callsInTurn(try seconds(calls: 1) { _ = try ours($0) }[0])
    let theirCalls = Self.callsInTurn(seconds(calls: 1) { _ = theirs($0) }[0])
    var ourSeconds: [Double] = []
    var theirSeconds: [Double] = []
    for _ in 0..<repetitions {
      ourSeconds += try seconds(calls: ourCalls) { _ = try ours($0) }
      theirSeconds += seconds(calls: theirCalls) { _ = theirs($0) }
    }

    var comparison = EncodeComparison(dictionary, k: k)
    let before = workspace.counters
    let checkedCalls = max(1, min(Self.checkedTokens, tokens) / batch)
    for call in 0..<checkedCalls {
      comparison.add(
        try ours(call), theirs(call), activations: activations.pointer + call * batch * dModel)
    }
    let after = workspace.counters
    let screened = after.screenedTokens - before.screenedTokens
    return Row(
      batch: batch, granularity: granularity, k: k,
      milliseconds: 1000 * (Quantile.median(ourSeconds) ?? 0),
      denseMilliseconds: 1000 * (Quantile.median(theirSeconds) ?? 0),
      survivorsPerToken: screened > 0
        ? Double(after.survivors - before.survivors) / Double(screened) : nil,
      fallbacks: after.fallbacks - before.fallbacks, checkedTokens: comparison.tokens,
      tiedTokens: comparison.tiedTokens, differingTokens: comparison.differingTokens,
      valueSum: comparison.valueSum)
  }

  /// The seconds of each of `calls` calls; the first of several warms up threads and caches and does
  /// not count.
  private func seconds(calls: Int, _ body: (Int) throws -> Void) rethrows -> [Double] {
    let clock = ContinuousClock()
    var seconds: [Double] = []
    for call in 0..<calls {
      let start = clock.now
      try body(call)
      seconds.append((clock.now - start) / .seconds(1))
    }
    return calls > 1 ? Array(seconds.dropFirst()) : seconds
  }

  private static func callsInTurn(_ seconds: Double) -> Int {
    let calls = Int((turnSeconds / max(seconds, 1e-6)).rounded())
    return calls > 1 ? calls + 1 : 1
  }
}
