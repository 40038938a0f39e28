/// What a dictionary costs in active latents and leaves unexplained, beside others: those that no
/// other beats in both are the frontier.
public struct SparsityFrontier: Sendable {
  /// A dictionary at a granularity.
  public struct Point: Sendable {
    /// The dictionary's name.
    public var name: String
    /// Number of latents.
    public var granularity: Int
    /// Mean number of active latents a token.
    public var l0: Double
    /// Fraction of variance unexplained.
    public var fvu: Double
    /// Whether no other point has as few active latents and explains as much.
    public var isOnFrontier = false

    /// A point, not yet compared.
    public init(name: String, granularity: Int, l0: Double, fvu: Double) {
      self.name = name
      self.granularity = granularity
      self.l0 = l0
      self.fvu = fvu
    }
  }

  /// The points, L0 ascending.
  public let points: [Point]

  /// Compares `points`, in any order.
  public init(_ points: [Point]) {
    var sorted = points.sorted { ($0.l0, $0.fvu) < ($1.l0, $1.fvu) }
    var best = Double.infinity
    for index in sorted.indices where sorted[index].fvu < best {
      best = sorted[index].fvu
      sorted[index].isOnFrontier = true
    }
    self.points = sorted
  }
}
