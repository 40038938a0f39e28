internal import CGranuleKernels
internal import Glibc
public import GranuleTensors

/// A dictionary: its weights, its selection rule, and the granularities it was made for. A value;
/// copies share the weights, which never change.
///
/// x̂ = b_dec + Σ_j z_j W_dec[j], with z = ReLU(W_enc (x − b_dec) + b_enc) for the latents
/// that the selection rule finds active among the first G. Weights act on raw activations. A
/// `SparseEncoder` of module GranuleEncoder encodes and decodes with it.
public struct SparseAutoencoder: Sendable {
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
  /// The rule that says which latents are active.
  public let selectionRule: SelectionRule
  /// The normalisation of each activation before anything else.
  public let inputNormalization: InputNormalization
  /// The granularities it was made for, ascending; empty if none are known.
  public let granularities: [Granularity]
  /// Mean of the activations, [d_model], the baseline of FVU; nil if none was stored.
  public let activationMean: [Float]?
  /// Standard deviation of the activations, [d_model]: makes encoding faster, never different; nil
  /// if none was stored.
  public let activationDeviation: [Float]?
  /// Each latent's index in the dictionary that it was ordered from; nil if it was not ordered.
  public let latentOrder: [Int]?
  /// The core that a distillation found; nil if there is none.
  public let core: DistilledCore?
  /// Its origin.
  public let provenance: Provenance

  /// Number of latents of the whole dictionary, of which `latents` are in memory: the k of a fixed
  /// ratio refers to it.
  public let latentsBeforeTruncation: Int

  /// The parts that a dictionary is made of.
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
    /// See `SparseAutoencoder.latentOrder`.
    public var latentOrder: [Int]?
    /// See `SparseAutoencoder.core`.
    public var core: DistilledCore?
    /// See `SparseAutoencoder.provenance`.
    public var provenance = Provenance()

    /// Weights and a rule, with defaults for the rest.
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
  public init(_ parts: Parts) {
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
    provenance = parts.provenance
    self.latentsBeforeTruncation = latentsBeforeTruncation
    if case .threshold(let thresholds) = parts.selectionRule {
      precondition(thresholds.count == latents)
    }
  }

  /// The dictionary's parts, which share its weights, to make a changed dictionary from.
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
  /// the same up to that order, except which of equal pre-activations are kept.
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

  /// The k that serves granularity G by default.
  ///
  /// A calibrated dictionary lists k at some granularities: between two of them k is interpolated
  /// linearly in log G, below the first it is in proportion to G. Without
  /// calibration the ratio k / N is kept (Progressive Coding for SAEs, section 4). At least 1, at
  /// most G; 0 if the selection rule has no k.
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
  /// evaluates. 0 if the selection rule has no k.
  public func fixedRatioK(at granularity: Int) -> Int {
    guard case .topk(let fullK) = selectionRule else { return 0 }
    let k = Double(fullK) * Double(granularity) / Double(latentsBeforeTruncation)
    return min(max(Int(k.rounded()), 1), granularity)
  }

  /// Σ‖x − mean‖² over the tokens of `activations`: [tokens, d_model], the denominator of FVU; nil
  /// if the dictionary stores no mean.
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
