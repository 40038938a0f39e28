internal import GranuleTensors
internal import GranuleThreads
internal import Synchronization

/// Encodes on all cores.
public final class EncoderPool {
  private let workspaces: [EncodeWorkspace]
  /// nil guesses BatchTopK's threshold from a sample; else this much of the largest value in it, which
  /// only tests ask for.
  package var batchGuessFactor: Float?

  /// A pool of `threads` threads; nil: one a core.
  public init(threads: Int? = nil) {
    workspaces = (0..<max(1, threads ?? Parallel.threads)).map { _ in EncodeWorkspace() }
  }

  private var threads: Int { workspaces.count }

  /// What the pool has done so far.
  public var counters: EncodeWorkspace.Counters {
    workspaces.reduce(into: EncodeWorkspace.Counters()) { $0.add($1.counters) }
  }

  /// Fewer tokens than this a thread would each pay for a pass over the encoder's memory: then the
  /// latents are split, not the tokens.
  private static let tokensPerThreadMin = 256
  /// More tokens than this are worth a thread's pass of their own: a server splits them.
  private static let sharedTokensMax = 64
  /// Less work than this, in weights, is done before another thread has woken up.
  private static let weightsMin = 1 << 21

  /// As `SparseAutoencoder.encode`, on all threads. One caller at a time.
  ///
  /// - Parameter activations: [tokens, d_model] float32, raw.
  /// - Throws: `EncodingError` of the first activation or argument that cannot be encoded.
  public func encode(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, k: Int? = nil
  ) throws(EncodingError) -> SparseCodes {
    let dModel = dictionary.dModel
    precondition(activations.count == tokens * dModel)
    guard threads > 1, tokens * granularity * dModel >= Self.weightsMin else {
      return try dictionary.encode(
        activations, tokens: tokens, granularity: granularity, k: k, workspace: workspaces[0])
    }
    guard tokens >= threads * Self.tokensPerThreadMin else {
      return try dictionary.encodeSplittingLatents(
        activations, tokens: tokens, granularity: granularity, k: k, workspaces: workspaces)
    }
    return try encodeSplittingTokens(
      dictionary, activations, tokens: tokens, granularity: granularity, k: k, floor: nil)
  }

  /// As `SparseAutoencoder.encode`, several inputs in one pass over the encoder, on the calling thread;
  /// what is one input of few tokens is shared with up to `threads - 1` others.
  package func encode(
    _ dictionary: SparseAutoencoder, _ inputs: [EncodeInput], threads: Int
  ) -> [Result<SparseCodes, EncodingError>] {
    guard threads > 1, inputs.count == 1, inputs[0].progress == nil,
      inputs[0].tokens <= Self.sharedTokensMax,
      inputs[0].tokens * inputs[0].granularity * dictionary.dModel >= Self.weightsMin
    else { return dictionary.encode(inputs, workspace: workspaces[0]) }
    let input = inputs[0]
    do throws(EncodingError) {
      return [
        .success(
          try dictionary.encodeSplittingLatents(
            input.activations, tokens: input.tokens, granularity: input.granularity, k: input.k,
            workspaces: Array(workspaces.prefix(threads))))
      ]
    } catch {
      return [.failure(error)]
    }
  }

  private func encodeSplittingTokens(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, k: Int?, floor: Float?
  ) throws(EncodingError) -> SparseCodes {
    let dModel = dictionary.dModel
    let answers = Mutex<[Result<SparseCodes, EncodingError>?]>(
      Array(repeating: nil, count: threads))
    Parallel.perform(threads) { thread in
      let start = tokens * thread / threads
      let end = tokens * (thread + 1) / threads
      let input = EncodeInput(
        activations: UnsafeBufferPointer(rebasing: activations[start * dModel..<end * dModel]),
        tokens: end - start, granularity: granularity, k: k)
      let answer = dictionary.encode([input], floor: floor, workspace: workspaces[thread])[0]
      answers.withLock { $0[thread] = answer.mapError { $0.shifted(by: start) } }
    }
    var codes = SparseCodes()
    for answer in answers.withLock({ $0 }) { codes.append(try answer!.get()) }
    return codes
  }

  /// Encodes a batch with k active latents a token on average, as BatchTopK trains (Bussmann et al.,
  /// BatchTopK Sparse Autoencoders): the k · tokens largest positive pre-activations of the whole
  /// batch; of equal ones those of earlier tokens, then of lower latents.
  ///
  /// One value is guessed for the batch, below which nothing is looked at; enough that is not below
  /// proves it right, else it is lowered.
  ///
  /// - Parameters:
  ///   - count: nil for k · tokens, or how many are kept instead.
  ///   - exempt: so many first latents are left out: they are not selected from.
  /// - Precondition: the dictionary's selection rule is `topk`.
  /// - Returns: the codes, and the least value among them: 0 where fewer are positive.
  /// - Throws: `EncodingError`, for the first token concerned.
  package func encodeBatchTopK(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, k: Int, count: Int? = nil, exempt: Int = 0
  ) throws(EncodingError) -> (codes: SparseCodes, threshold: Float) {
    _ = try dictionary.checkedK(k, granularity: granularity)
    let wanted = count ?? k * tokens
    guard wanted > 0 else { return (SparseCodes(), 0) }
    var floor = try guess(
      dictionary, activations, tokens: tokens, granularity: granularity, wanted: wanted,
      exempt: exempt)
    while true {
      var codes = try encodeSplittingTokens(
        dictionary, activations, tokens: tokens, granularity: granularity, k: nil, floor: floor)
      if exempt > 0 { codes = codes.droppingLatents(exempt) }
      let enough = codes.values.count { $0 >= floor } >= wanted
      if enough || floor == 0 { return codes.largest(wanted) }
      // Lower by steps; where that would take many, to 0, where everything positive is found.
      floor = floor < 1e-3 * (codes.values.max() ?? 0) ? 0 : 0.7 * floor
    }
  }

  /// A little below what a sample of tokens would set the floor to.
  private func guess(
    _ dictionary: SparseAutoencoder, _ activations: UnsafeBufferPointer<Float>, tokens: Int,
    granularity: Int, wanted: Int, exempt: Int
  ) throws(EncodingError) -> Float {
    let dModel = dictionary.dModel
    let sampled = min(tokens, 128)
    var sample: [Float] = []
    sample.reserveCapacity(sampled * dModel)
    for number in 0..<sampled {
      let token = tokens * number / sampled
      sample += activations[token * dModel..<(token + 1) * dModel]
    }
    let sampleWanted = max(1, wanted * sampled / tokens)
    var codes: SparseCodes
    do throws(EncodingError) {
      codes = try sample.withUnsafeBufferPointer { (sample) throws(EncodingError) in
        try encode(
          dictionary, sample, tokens: sampled, granularity: granularity,
          k: min(granularity, 4 * ((wanted + tokens - 1) / tokens) + exempt))
      }
      if exempt > 0 { codes = codes.droppingLatents(exempt) }
    } catch {
      // The whole batch says which token it is.
      return 0
    }
    if let batchGuessFactor { return (codes.values.max() ?? 0) * batchGuessFactor }
    return 0.97 * codes.largest(sampleWanted).threshold
  }
}
