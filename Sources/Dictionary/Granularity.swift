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
