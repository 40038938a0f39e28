/// Which latents of a token are active, all on ReLU'd pre-activations h = W_enc (x − b_dec) +
/// b_enc.
public enum SelectionRule: Sendable, Equatable {
  /// The k largest among the first G latents; k is the full dictionary's.
  case topk(k: Int)
  /// Latents with h_j > θ_j, strictly (JumpReLU; BatchTopK at inference). thresholds: [latents].
  case threshold([Float])
  /// Latents with h_j > 0.
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
