/// Where a dictionary comes from; facts that change nothing about what it computes.
public struct Provenance: Sendable, Equatable {
  /// The language model whose activations it was trained on, "" if unknown.
  public var languageModel = ""
  /// Where in that model.
  public var hook: HookPoint = ""
  /// Number of tokens it was trained on, nil if unknown.
  public var tokens: Int?
  /// How its latents were put in order, nil if they are as training left them.
  public var orderedBy: String?
  /// The factor that its training activations were scaled by; folded into the weights already.
  public var activationScale: Double?

  /// Nothing known.
  public init() {}
}
