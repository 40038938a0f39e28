/// Which latents of a token are active, all on ReLU'd pre-activations h = W_enc (x − b_dec) + b_enc.
public enum SelectionRule: Sendable, Equatable {
  /// The k largest among the first G latents; k is the full dictionary's.
  case topk(k: Int)
  /// Those with h_j > θ_j, strictly (JumpReLU; BatchTopK at inference). thresholds: [latents].
  case threshold([Float])
  /// Those with h_j > 0.
  case relu

  /// `topk`, `threshold` or `relu`, as in the wire contract.
  public var name: String {
    switch self {
    case .topk: "topk"
    case .threshold: "threshold"
    case .relu: "relu"
    }
  }
}

/// A prefix of a dictionary that it was made for, with what was measured there.
public struct Granularity: Sendable, Equatable {
  /// Number of latents in the prefix.
  public var latents: Int
  /// Mean number of this prefix's latents that are active in full-width codes, rounded; the k that
  /// serves this granularity by default. 0 where the selection rule has none.
  public var k: Int
  /// Mean number of active latents a token with that k, nil where it was not measured.
  public var l0: Float?
  /// Fraction of variance unexplained with that k, nil where it was not measured.
  public var fvu: Float?

  /// A granularity with what is known of it.
  public init(latents: Int, k: Int, l0: Float? = nil, fvu: Float? = nil) {
    self.latents = latents
    self.k = k
    self.l0 = l0
    self.fvu = fvu
  }
}

/// What SAELens's `normalize_activations` does to each activation on the way in, undone on the way
/// out.
public enum InputNormalization: String, Sendable {
  /// Nothing.
  case none
  /// x · √d / ‖x‖
  case constantNormRescale = "constant_norm_rescale"
  /// (x − mean) / (standard deviation with n − 1, plus 1e-5); out: · standard deviation + mean
  case layerNorm = "layer_norm"
}

/// Where a dictionary comes from; facts that change nothing about what it computes.
public struct Provenance: Sendable, Equatable {
  /// The language model whose activations it was trained on, "" if unknown.
  public var languageModel = ""
  /// Where in that model, in TransformerLens's names (`blocks.10.hook_resid_pre`), "" if unknown.
  public var hook = ""
  /// Number of tokens it was trained on, nil if unknown.
  public var tokens: Int?
  /// How its latents were put in order, nil if they are as training left them.
  public var orderedBy: String?
  /// The factor that its training activations were scaled by; folded into the weights already.
  public var activationScale: Double?

  /// Nothing known.
  public init() {}
}
