internal import Synchronization
internal import Tensors

/// Encodes on all cores, with threads that live as long as it does.
public final class EncoderPool {
  private let pool: ThreadPool
  private let workspaces: [EncodeWorkspace]

  /// A pool of `threads` threads, the caller's included; nil: one a core.
  public init(threads: Int? = nil) {
    let pool = ThreadPool(threads: threads)
    self.pool = pool
    workspaces = (0..<pool.threads).map { _ in EncodeWorkspace() }
  }

  /// What the pool has done so far.
  public var counters: EncodeWorkspace.Counters {
    workspaces.reduce(into: EncodeWorkspace.Counters()) { $0.add($1.counters) }
  }

  /// Fewer tokens than this a thread would each pay for a pass over the encoder's memory: then the
  /// latents are split, not the tokens.
  private static let tokensPerThreadMin = 32
  /// Less work than this, in weights, is done before another thread has woken up.
  private static let weightsMin = 1 << 19

  /// As `SparseAutoencoder.encode`, on all of the pool's threads. One caller at a time.
  public func encode(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, k: Int? = nil
  ) throws(EncodingError) -> SparseCodes {
    let dModel = dictionary.dModel
    precondition(activations.count == tokens * dModel)
    guard pool.threads > 1, tokens * granularity * dModel >= Self.weightsMin else {
      return try dictionary.encode(
        activations, tokens: tokens, granularity: granularity, k: k, workspace: workspaces[0])
    }
    guard tokens >= pool.threads * Self.tokensPerThreadMin else {
      return try dictionary.encodeSplittingLatents(
        activations, tokens: tokens, granularity: granularity, k: k, pool: pool,
        workspaces: workspaces)
    }
    typealias Answer = Result<SparseCodes, EncodingError>
    let answers = Mutex<[Answer?]>(Array(repeating: nil, count: pool.threads))
    pool.run { thread in
      let start = tokens * thread / pool.threads
      let end = tokens * (thread + 1) / pool.threads
      let answer: Answer
      do throws(EncodingError) {
        answer = .success(
          try dictionary.encode(
            UnsafeBufferPointer(rebasing: activations[start * dModel..<end * dModel]),
            tokens: end - start, granularity: granularity, k: k, workspace: workspaces[thread]))
      } catch {
        answer = .failure(error.shifted(by: start))
      }
      answers.withLock { $0[thread] = answer }
    }
    var codes = SparseCodes()
    for answer in answers.withLock({ $0 }) { codes.append(try answer!.get()) }
    return codes
  }
}
