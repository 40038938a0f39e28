internal import CGranuleKernels
internal import Glibc
public import GranuleTensors
internal import GranuleThreads
internal import Synchronization

/// A dictionary: its weights, its selection rule, and the granularities it was made for. Immutable.
///
/// x̂ = b_dec + Σ_j z_j W_dec[j], where z holds ReLU(W_enc (x − b_dec) + b_enc) for the latents
/// that the selection rule finds active among the first G. Weights act on raw activations.
public final class SparseAutoencoder: Sendable {
  /// Length of an activation.
  public let dModel: Int
  /// Number of latents that are in memory, N.
  public let latents: Int
  /// W_enc: [latents, d_model], a latent's row contiguous, so that a granularity is a prefix.
  public let encoderWeights: FloatStorage
  /// b_enc: [latents]
  public let encoderBias: FloatStorage
  /// W_dec: [latents, d_model]
  public let decoderWeights: FloatStorage
  /// b_dec: [d_model]
  public let decoderBias: FloatStorage
  /// Whether b_dec is subtracted before encoding (SAELens's `apply_b_dec_to_input`).
  public let subtractsDecoderBias: Bool
  /// Which latents are active.
  public let selectionRule: SelectionRule
  /// What is done to each activation first.
  public let inputNormalization: InputNormalization
  /// The granularities it was made for, ascending; empty where nothing is known.
  public let granularities: [Granularity]
  /// Mean of the activations, [d_model], the baseline of FVU; nil where none was stored.
  public let activationMean: [Float]?
  /// Standard deviation of the activations, [d_model]: makes encoding faster, never different; nil
  /// where none was stored.
  public let activationDeviation: [Float]?
  /// Each latent's index in the dictionary that it was ordered from, nil where it was not.
  public let latentOrder: [Int]?
  /// What a distillation found of the first latents, nil where they are no core.
  public let core: DistilledCore?
  /// Where it comes from.
  public let provenance: Provenance

  /// Number of latents of the whole dictionary, of which `latents` are in memory: the k of a fixed
  /// ratio refers to it.
  public let latentsBeforeTruncation: Int
  let encoderCPU: EncoderCPU
  let screeningHistory: ScreeningHistory
  private let quantizedCache: Mutex<QuantizedEncoder?>
  /// max(θ_j, 0), the least pre-activation that is active; nil unless the rule is `threshold`.
  let effectiveThresholds: FloatStorage?
  /// The largest ‖W_enc[j]‖ among the first G latents, at G − 1; rounded up.
  let encoderNormMax: [Float]
  /// The largest |b_enc[j]| among the first G latents, at G − 1.
  let encoderBiasMax: [Float]

  /// What a dictionary is made of.
  public struct Parts {
    /// W_enc: [latents, d_model], latent-major.
    public var encoderWeights: FloatStorage
    /// b_enc: [latents]
    public var encoderBias: FloatStorage
    /// W_dec: [latents, d_model]
    public var decoderWeights: FloatStorage
    /// b_dec: [d_model]
    public var decoderBias: FloatStorage
    /// See `SparseAutoencoder.subtractsDecoderBias`.
    public var subtractsDecoderBias = true
    /// See `SparseAutoencoder.selectionRule`.
    public var selectionRule: SelectionRule
    /// See `SparseAutoencoder.inputNormalization`.
    public var inputNormalization = InputNormalization.none
    /// See `SparseAutoencoder.granularities`.
    public var granularities: [Granularity] = []
    /// See `SparseAutoencoder.activationMean`.
    public var activationMean: [Float]?
    /// See `SparseAutoencoder.activationDeviation`.
    public var activationDeviation: [Float]?
    /// For which CPU it encodes.
    package var encoderCPU = EncoderCPU.current
    /// What is known of screening it: to be shared by dictionaries that hardly differ.
    package var screeningHistory = ScreeningHistory()
    /// What an owner of weights that change keeps up himself; nil: made when first needed.
    package var preparedEncoder: PreparedEncoder?
    /// See `SparseAutoencoder.latentOrder`.
    public var latentOrder: [Int]?
    /// See `SparseAutoencoder.core`.
    public var core: DistilledCore?
    /// See `SparseAutoencoder.provenance`.
    public var provenance = Provenance()

    /// Weights and a rule; the rest as defaults say.
    public init(
      encoderWeights: FloatStorage, encoderBias: FloatStorage, decoderWeights: FloatStorage,
      decoderBias: FloatStorage, selectionRule: SelectionRule
    ) {
      self.encoderWeights = encoderWeights
      self.encoderBias = encoderBias
      self.decoderWeights = decoderWeights
      self.decoderBias = decoderBias
      self.selectionRule = selectionRule
    }
  }

  /// - Precondition: shapes agree, there is at least one latent and one dimension, every value is
  ///   finite, granularities ascend within 1 … latents. Readers of files check before.
  public convenience init(_ parts: Parts) {
    self.init(parts, latentsBeforeTruncation: parts.encoderBias.count)
  }

  private init(_ parts: Parts, latentsBeforeTruncation: Int) {
    dModel = parts.decoderBias.count
    latents = parts.encoderBias.count
    precondition(dModel > 0 && latents > 0)
    precondition(parts.encoderWeights.count == latents * dModel)
    precondition(parts.decoderWeights.count == latents * dModel)
    precondition(parts.core?.latents ?? 0 <= latents)
    encoderWeights = parts.encoderWeights
    encoderBias = parts.encoderBias
    decoderWeights = parts.decoderWeights
    decoderBias = parts.decoderBias
    subtractsDecoderBias = parts.subtractsDecoderBias
    selectionRule = parts.selectionRule
    inputNormalization = parts.inputNormalization
    granularities = parts.granularities
    activationMean = parts.activationMean
    activationDeviation = parts.activationDeviation
    latentOrder = parts.latentOrder
    core = parts.core
    encoderCPU = parts.encoderCPU
    screeningHistory = parts.screeningHistory
    provenance = parts.provenance
    quantizedCache = Mutex(parts.preparedEncoder?.quantized)
    self.latentsBeforeTruncation = latentsBeforeTruncation
    if case .threshold(let thresholds) = parts.selectionRule {
      precondition(thresholds.count == latents)
      effectiveThresholds = FloatStorage(thresholds.map { max($0, 0) })
    } else {
      effectiveThresholds = nil
    }
    var normMax: [Float] = []
    var biasMax: [Float] = []
    normMax.reserveCapacity(latents)
    biasMax.reserveCapacity(latents)
    let knownNorms = parts.preparedEncoder?.quantized.rawNorms
    for latent in 0..<latents {
      let row = parts.encoderWeights.pointer + latent * dModel
      // 1.01 covers the rounding of the sum, the floor what underflows in it.
      let norm =
        knownNorms?.pointer[latent] ?? 1.01 * (gk_dot(row, row, dModel) + 1e-30).squareRoot()
      normMax.append(max(normMax.last ?? 0, norm))
      biasMax.append(max(biasMax.last ?? 0, abs(parts.encoderBias.pointer[latent])))
    }
    encoderNormMax = normMax
    encoderBiasMax = biasMax
  }

  /// The encoder in 8 bits, made by the first who asks.
  var quantizedEncoder: QuantizedEncoder { quantizedEncoder(threads: Parallel.threads) }

  private func quantizedEncoder(threads: Int) -> QuantizedEncoder {
    quantizedCache.withLock { cached in
      if let cached { return cached }
      let made = QuantizedEncoder(self, cpu: encoderCPU, threads: threads)
      cached = made
      return made
    }
  }

  /// Does now what the first call of `encode` would do: quantises the encoder.
  ///
  /// - Parameter onAllCores: false leaves the others to whoever computes meanwhile.
  public func prepareEncoder(onAllCores: Bool = true) {
    guard dModel <= QuantizedEncoder.dModelMax else { return }
    _ = quantizedEncoder(threads: onAllCores ? Parallel.threads : 1)
  }

  /// Bytes of memory, by part.
  public struct ResidentBytes: Sendable {
    /// W_enc and b_enc.
    public var encoder: Int
    /// The encoder in 8 bits with what bounds its error; 0 until it is first used.
    public var quantizedEncoder: Int
    /// W_dec and b_dec.
    public var decoder: Int
    /// Thresholds, statistics of activations, norms, the order of latents.
    public var others: Int
    /// All of it.
    public var total: Int { encoder + quantizedEncoder + decoder + others }
  }

  /// Bytes of memory that it takes now.
  public var residentBytes: ResidentBytes {
    let vectors =
      encoderNormMax.count + encoderBiasMax.count + (effectiveThresholds?.count ?? 0) * 2
      + (activationMean?.count ?? 0) + (activationDeviation?.count ?? 0)
    return ResidentBytes(
      encoder: 4 * (encoderWeights.count + encoderBias.count),
      quantizedEncoder: quantizedCache.withLock { $0?.residentBytes ?? 0 },
      decoder: 4 * (decoderWeights.count + decoderBias.count),
      others: 4 * vectors + 8 * (latentOrder?.count ?? 0) + 16 * (core?.latents ?? 0))
  }

  /// The dictionary's parts, sharing its weights, to make another from.
  public var parts: Parts {
    var parts = Parts(
      encoderWeights: encoderWeights, encoderBias: encoderBias, decoderWeights: decoderWeights,
      decoderBias: decoderBias, selectionRule: selectionRule)
    parts.subtractsDecoderBias = subtractsDecoderBias
    parts.inputNormalization = inputNormalization
    parts.granularities = granularities
    parts.activationMean = activationMean
    parts.activationDeviation = activationDeviation
    parts.latentOrder = latentOrder
    parts.core = core
    parts.encoderCPU = encoderCPU
    parts.provenance = provenance
    return parts
  }

  /// The first `granularity` latents as a dictionary of their own, whose full size is that
  /// granularity and whose k is the one that serves it here.
  ///
  /// - Precondition: 1 ≤ granularity ≤ latents.
  public func standalone(granularity: Int) -> SparseAutoencoder {
    var parts = truncated(to: granularity).parts
    if case .topk = selectionRule { parts.selectionRule = .topk(k: defaultK(at: granularity)) }
    parts.granularities = granularities.filter { $0.latents <= granularity }
    if !parts.granularities.isEmpty, parts.granularities.last?.latents != granularity {
      parts.granularities.append(
        Granularity(latents: granularity, k: defaultK(at: granularity)))
    }
    return SparseAutoencoder(parts)
  }

  /// The first `count` latents with copies of their weights, so that the rest's memory is freed
  /// with the last use of this dictionary. Answers at G ≤ count are the same as this one's.
  ///
  /// - Precondition: 1 ≤ count ≤ latents.
  public func truncated(to count: Int) -> SparseAutoencoder {
    precondition((1...latents).contains(count))
    var parts = parts
    parts.encoderWeights = FloatStorage(encoderWeights.values[..<(count * dModel)])
    parts.decoderWeights = FloatStorage(decoderWeights.values[..<(count * dModel)])
    parts.encoderBias = FloatStorage(encoderBias.values[..<count])
    if case .threshold(let thresholds) = selectionRule {
      parts.selectionRule = .threshold(Array(thresholds[..<count]))
    }
    parts.latentOrder = latentOrder.map { Array($0[..<count]) }
    parts.core = core?.prefix(count)
    return SparseAutoencoder(parts, latentsBeforeTruncation: latentsBeforeTruncation)
  }

  /// The same dictionary with its latents in another order: latent j is what `order[j]` was, and
  /// `latentOrder` says which latent of the dictionary that was ordered first. Full-size codes are
  /// the same up to that order, but for which of equal pre-activations are kept.
  ///
  /// - Precondition: `order` holds each of 0 ..< latents once.
  public func permuted(_ order: [Int]) -> SparseAutoencoder {
    precondition(order.count == latents)
    func rows(_ matrix: FloatStorage) -> FloatStorage {
      let result = FloatStorage(count: matrix.count)
      for (latent, source) in order.enumerated() {
        (result.pointer + latent * dModel).update(
          from: matrix.pointer + source * dModel, count: dModel)
      }
      return result
    }
    var parts = parts
    parts.encoderWeights = rows(encoderWeights)
    parts.decoderWeights = rows(decoderWeights)
    parts.encoderBias = FloatStorage(order.map { encoderBias.pointer[$0] })
    if case .threshold(let thresholds) = selectionRule {
      parts.selectionRule = .threshold(order.map { thresholds[$0] })
    }
    parts.latentOrder = order.map { latentOrder?[$0] ?? $0 }
    // Its latents need not be the first any more.
    parts.core = nil
    return SparseAutoencoder(parts, latentsBeforeTruncation: latentsBeforeTruncation)
  }

  /// The k that serves granularity G unless the caller says another.
  ///
  /// A dictionary that was calibrated has its own: what it lists at G, between two listed
  /// granularities interpolated linearly in log G, below the first in proportion to G. Without
  /// calibration the ratio k / N is kept (Progressive Coding for SAEs, section 4). At least 1, at
  /// most G; 0 where the selection rule has no k.
  public func defaultK(at granularity: Int) -> Int {
    guard case .topk(let fullK) = selectionRule else { return 0 }
    var known = granularities.filter { $0.k > 0 }.map { (latents: $0.latents, k: Double($0.k)) }
    guard !known.isEmpty else { return fixedRatioK(at: granularity) }
    if known.last?.latents != latentsBeforeTruncation {
      known.append((latentsBeforeTruncation, Double(fullK)))
    }
    let g = Double(granularity)
    guard let above = known.firstIndex(where: { $0.latents >= granularity }) else { return fullK }
    let k: Double
    if known[above].latents == granularity {
      k = known[above].k
    } else if above == 0 {
      k = known[0].k * g / Double(known[0].latents)
    } else {
      let (low, high) = (known[above - 1], known[above])
      let share = log(g / Double(low.latents)) / log(Double(high.latents) / Double(low.latents))
      k = low.k + share * (high.k - low.k)
    }
    return min(max(Int(k.rounded()), 1), granularity)
  }

  /// k · G / N, at least 1: the fixed relative sparsity at which the progressive-coding paper
  /// evaluates. 0 where the selection rule has no k.
  public func fixedRatioK(at granularity: Int) -> Int {
    guard case .topk(let fullK) = selectionRule else { return 0 }
    let k = Double(fullK) * Double(granularity) / Double(latentsBeforeTruncation)
    return min(max(Int(k.rounded()), 1), granularity)
  }

  /// Σ‖x − mean‖² over the tokens of `activations`: [tokens, d_model], the denominator of FVU; nil
  /// where the dictionary stores no mean.
  public func totalVariance(of activations: UnsafeBufferPointer<Float>) -> Double? {
    guard let activationMean, let first = activations.baseAddress else {
      return activationMean.map { _ in 0 }
    }
    var total = 0.0
    for start in stride(from: 0, to: activations.count, by: dModel) {
      total += Double(gk_squared_distance(first + start, activationMean, dModel))
    }
    return total
  }
}
