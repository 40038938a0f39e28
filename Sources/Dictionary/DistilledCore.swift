/// The core of a dictionary: its first latents, to which a distillation attributed most of a language
/// model's loss in cycle after cycle (Martin-Linares & Ling, arXiv 2512.24975).
public struct DistilledCore: Sendable, Equatable {
  /// Each latent's attribution when it was last selected, in nats: [core latents].
  public var attributions: [Float]
  /// The share of tokens for which each latent was active then: [core latents].
  public var frequencies: [Float]
  /// The number of cycles in which each latent was selected: [core latents].
  public var selections: [Int]
  /// The number of cycles of the distillation.
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

  /// The core of the first `count` latents.
  func prefix(_ count: Int) -> DistilledCore {
    guard count < latents else { return self }
    return DistilledCore(
      attributions: Array(attributions[..<count]), frequencies: Array(frequencies[..<count]),
      selections: Array(selections[..<count]), cycles: cycles)
  }
}
