internal import Tensors

/// Encodes on all cores: a pool of threads that live as long as it does.
public final class EncoderPool {
  private let workspaces: [EncodeWorkspace]

  /// A pool of `threads` threads, the caller's included.
  public init(threads: Int = Parallel.threads) {
    workspaces = (0..<threads).map { _ in EncodeWorkspace() }
  }

  /// What the pool has done so far.
  public var counters: EncodeWorkspace.Counters {
    workspaces.reduce(into: EncodeWorkspace.Counters()) { $0.add($1.counters) }
  }

  /// As `SparseAutoencoder.encode`, on all of the pool's threads. One caller at a time.
  public func encode(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, k: Int? = nil
  ) throws(EncodingError) -> SparseCodes {
    try dictionary.encode(
      activations, tokens: tokens, granularity: granularity, k: k, workspace: workspaces[0])
  }
}
