/// The origin of a dictionary. Nothing that it computes depends on it.
public struct Provenance: Sendable, Equatable {
  /// The language model whose activations it was trained on, "" if unknown.
  public var languageModel = ""
  /// The place in that model.
  public var hook: HookPoint = ""
  /// Number of tokens it was trained on, nil if unknown.
  public var tokens: Int?
  /// The measure by which its latents were ordered; nil if they are as training left them.
  public var orderedBy: String?
  /// The factor that its training activations were scaled by; folded into the weights already.
  public var activationScale: Double?

  /// An unknown origin.
  public init() {}
}
