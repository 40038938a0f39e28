internal import COpenBLAS
internal import Tensors

/// Scratch memory of one encoding thread: reused from call to call, grown when needed.
public final class EncodeWorkspace {
  /// Pre-activations of a block of tokens are held at once, at most so many values (16 MiB).
  static let scoresMax = 4 << 20
  /// Tokens a block: enough for matrix multiplication to run at its full rate.
  static let blockTokensMax = 256

  private(set) var inputs = FloatStorage(count: 0)  // [block, d_model], normalised and centred
  private(set) var scores = FloatStorage(count: 0)  // [block, granularity]
  private(set) var scratch = FloatStorage(count: 0)  // [granularity]
  private(set) var exact = FloatStorage(count: 0)  // [granularity]
  private(set) var candidates: [UInt32] = []  // [granularity]

  /// Empty.
  public init() { _ = Self.singleThreadedBLAS }

  /// Whoever encodes brings its own threads, one workspace each; OpenBLAS's threads would fight
  /// them.
  private static let singleThreadedBLAS: Void = openblas_set_num_threads(1)

  /// Makes room for blocks of a dictionary at a granularity; returns the tokens a block.
  func reserve(dModel: Int, granularity: Int, tokens: Int) -> Int {
    let block = max(1, min(tokens, Self.blockTokensMax, Self.scoresMax / granularity))
    if inputs.count < block * dModel { inputs = FloatStorage(count: block * dModel) }
    if scores.count < block * granularity { scores = FloatStorage(count: block * granularity) }
    if scratch.count < granularity {
      scratch = FloatStorage(count: granularity)
      exact = FloatStorage(count: granularity)
      candidates = [UInt32](repeating: 0, count: granularity)
    }
    return block
  }

  func withCandidates<Result>(_ body: (UnsafeMutablePointer<UInt32>) -> Result) -> Result {
    candidates.withUnsafeMutableBufferPointer { body($0.baseAddress!) }
  }
}
