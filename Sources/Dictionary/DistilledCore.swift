/// What a distillation found of the first latents of a dictionary, its core: those that have most of
/// the attribution to a language model's loss, in cycle after cycle (Martin-Linares & Ling, arXiv
/// 2512.24975).
public struct DistilledCore: Sendable, Equatable {
  /// Each latent's attribution when it was last selected, in nats: [core latents].
  public var attributions: [Float]
  /// The share of tokens for which it was active then: [core latents].
  public var frequencies: [Float]
  /// The number of cycles in which it was selected: [core latents].
  public var selections: [Int]
  /// The number of cycles that there were.
  public var cycles: Int

  /// A core.
  ///
  /// - Precondition: there is at least one latent, and the arrays are of one length.
  public init(attributions: [Float], frequencies: [Float], selections: [Int], cycles: Int) {
    precondition(!attributions.isEmpty)
    precondition(attributions.count == frequencies.count && frequencies.count == selections.count)
    self.attributions = attributions
    self.frequencies = frequencies
    self.selections = selections
    self.cycles = cycles
  }

  /// Number of latents.
  public var latents: Int { attributions.count }

  /// Of the first latents only.
  func prefix(_ count: Int) -> DistilledCore {
    guard count < latents else { return self }
    return DistilledCore(
      attributions: Array(attributions[..<count]), frequencies: Array(frequencies[..<count]),
      selections: Array(selections[..<count]), cycles: cycles)
  }
}
