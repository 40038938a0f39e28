public import GranuleDictionary
public import GranuleTensors
internal import GranuleThreads

/// Encodes activations with a dictionary, and decodes codes. It is prepared when it is made and never
/// changes: any number of threads may use it at once, each with its own workspace.
///
///     let dictionary = try SparseAutoencoder(folder: path)
///     let encoder = try SparseEncoder(dictionary)
///     let codes = try encoder.encode(activations, granularity: 512)
///     let reconstruction = try encoder.decode(codes)
///
/// Pre-activations are screened in 8 bits with a proven bound of the error; every latent that may be
/// active is scored in float32, in one fixed order of summation (docs/encoder.md). The codes are
/// those of `ReferenceEncoder`, to the bit, however tokens are batched.
public final class SparseEncoder: Sendable {
  /// The dictionary that it encodes with.
  public let dictionary: SparseAutoencoder
  package let core: EncodingCore
  /// max(θ_j, 0), [latents]; nil unless the rule is `threshold`.
  private let thresholds: FloatStorage?

  /// Prepares a dictionary: quantises its encoder, which takes about a third of its memory more.
  ///
  /// - Parameter threads: number of threads that share the work; nil takes one a core.
  /// - Throws: `EncodingError.memory` if there is not enough of it.
  public convenience init(
    _ dictionary: SparseAutoencoder, threads: Int? = nil
  ) throws(EncodingError) {
    try self.init(dictionary, options: EncodingOptions(), threads: threads)
  }

  /// As the public initialiser, with options that tests set.
  package init(
    _ dictionary: SparseAutoencoder, options: EncodingOptions, threads: Int? = nil
  ) throws(EncodingError) {
    self.dictionary = dictionary
    if case .threshold(let thresholds) = dictionary.selectionRule {
      self.thresholds = FloatStorage(thresholds.map { max($0, 0) })
    } else {
      thresholds = nil
    }
    let weights = EncodingWeights(dictionary)
    let input = InputTransform(dictionary)
    let needed = QuantizedEncoder.byteCount(latents: weights.latents, dModel: weights.dModel)
    guard Memory.canBeHad(needed) else { throw .memory(byteCount: needed) }
    core = EncodingCore(
      weights: weights, input: input, hasK: dictionary.selectionRule.hasK,
      ruleName: dictionary.selectionRule.name, thresholds: thresholds.map { .init($0.pointer) },
      bounds: OverflowBounds(weights),
      quantized: QuantizedEncoder(
        weights, input, thresholds: thresholds.map { .init($0.pointer) }, cpu: options.cpu,
        threads: threads ?? Parallel.threads),
      history: ScreeningHistory(), options: options)
  }

  /// Encodes activations.
  ///
  /// - Parameters:
  ///   - activations: [tokens, d_model] float32, row-major, raw.
  ///   - granularity: G, the number of latents to consider; nil takes all.
  ///   - k: number of active latents a token, for the rule `topk` only; nil takes the dictionary's
  ///     `defaultK(at:)`.
  ///   - workspace: scratch memory to reuse from call to call, whose threads share the work; nil
  ///     makes one for this call, with one thread a core.
  /// - Returns: the active latents of each token; only values > 0; of equal values the lower index.
  /// - Throws: `EncodingError` for the first activation or argument that cannot be encoded.
  public func encode(
    _ activations: [Float], granularity: Int? = nil, k: Int? = nil,
    in workspace: EncodeWorkspace? = nil
  ) throws(EncodingError) -> SparseCodes {
    let granularity = granularity ?? dictionary.latents
    let workspace = workspace ?? EncodeWorkspace(threads: Parallel.threads)
    return try activations.withUnsafeBufferPointer { (buffer) throws(EncodingError) in
      try encode(
        EncodeInput(activations: buffer, granularity: granularity, k: k), in: workspace)
    }
  }

  /// Encodes one input.
  ///
  /// - Throws: `EncodingError` for the first activation or argument that cannot be encoded.
  public func encode(
    _ input: EncodeInput, in workspace: EncodeWorkspace
  ) throws(EncodingError) -> SparseCodes {
    try encode([input], in: workspace)[0].get()
  }

  /// Encodes inputs, each at its granularity. The cost follows the sum of the tokens' granularities.
  ///
  /// A single input without progress is shared by the workspace's threads. Several inputs take one
  /// pass over the encoder, on the calling thread.
  ///
  /// - Parameters:
  ///   - workspace: scratch memory that no other call uses meanwhile.
  ///   - threads: the most threads that share the work; nil takes the workspace's.
  /// - Returns: for each input its codes, as if it were encoded alone, or its error.
  public func encode(
    _ inputs: [EncodeInput], in workspace: EncodeWorkspace, threads: Int? = nil
  ) -> [Result<SparseCodes, EncodingError>] {
    var inputs = inputs
    if core.hasK {
      for index in inputs.indices
      where inputs[index].k == nil && (1...dictionary.latents).contains(inputs[index].granularity) {
        inputs[index].k = dictionary.defaultK(at: inputs[index].granularity)
      }
    }
    return withExtendedLifetime(self) { core.encode(inputs, in: workspace, threads: threads) }
  }

  /// Bytes of memory, by part.
  public struct ResidentBytes: Sendable {
    /// W_enc and b_enc.
    public var encoder: Int
    /// The encoder in 8 bits with what bounds its error.
    public var quantizedEncoder: Int
    /// W_dec and b_dec.
    public var decoder: Int
    /// Thresholds, statistics of activations, norms, the order of latents.
    public var others: Int
    /// The sum of all parts.
    public var total: Int { encoder + quantizedEncoder + decoder + others }
  }

  /// Bytes of memory that the dictionary and its prepared encoder take.
  public var residentBytes: ResidentBytes {
    let vectors =
      core.bounds.count + (thresholds?.count ?? 0) * 2
      + (dictionary.activationMean?.count ?? 0) + (dictionary.activationDeviation?.count ?? 0)
    return ResidentBytes(
      encoder: 4 * (dictionary.encoderWeights.count + dictionary.encoderBias.count),
      quantizedEncoder: core.quantized?.residentBytes ?? 0,
      decoder: 4 * (dictionary.decoderWeights.count + dictionary.decoderBias.count),
      others: 4 * vectors + 8 * (dictionary.latentOrder?.count ?? 0)
        + 16 * (dictionary.core?.latents ?? 0))
  }
}

extension SelectionRule {
  /// Whether it is `topk`.
  var hasK: Bool { if case .topk = self { true } else { false } }
}
