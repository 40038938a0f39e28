/// A prefix that a dictionary was made for, with the figures measured there.
public struct Granularity: Sendable, Equatable {
  /// Number of latents in the prefix.
  public var latents: Int
  /// Mean number of this prefix's latents that are active in full-width codes, rounded; the k that
  /// serves this granularity by default. 0 if the selection rule has no k.
  public var k: Int
  /// Mean number of active latents a token with that k; nil if it was not measured.
  public var l0: Float?
  /// Fraction of variance unexplained with that k; nil if it was not measured.
  public var fvu: Float?

  /// A granularity with its figures.
  public init(latents: Int, k: Int, l0: Float? = nil, fvu: Float? = nil) {
    self.latents = latents
    self.k = k
    self.l0 = l0
    self.fvu = fvu
  }
}
