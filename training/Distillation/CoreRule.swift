internal import GranuleErrors

/// Which of the features that cycles selected make the final core. The paper's are "repeatedly
/// selected"; how often is not known.
public enum CoreRule: Sendable, Equatable {
  /// Those of the last cycle.
  case last
  /// Those that each of the last N cycles selected.
  case intersection(Int)
  /// Those that at least N cycles selected.
  case votes(Int)

  /// At least half of the cycles.
  public static func standard(cycles: Int) -> CoreRule { .votes((cycles + 1) / 2) }

  /// `last`, `intersection:N` or `votes:N`.
  public init?(_ text: String) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    if parts == ["last"] {
      self = .last
      return
    }
    guard parts.count == 2, let count = Int(parts[1]), count >= 1 else { return nil }
    switch parts[0] {
    case "intersection": self = .intersection(count)
    case "votes": self = .votes(count)
    default: return nil
    }
  }

  /// As `init` reads it.
  public var text: String {
    switch self {
    case .last: "last"
    case .intersection(let count): "intersection:\(count)"
    case .votes(let count): "votes:\(count)"
    }
  }

  /// - Throws: `TrainingError` if it asks for more cycles than there are.
  func validate(cycles: Int) throws(TrainingError) {
    switch self {
    case .last: break
    case .intersection(let count), .votes(let count):
      guard count <= cycles else {
        throw TrainingError.invalid("core rule", text, "of at most \(cycles) cycles")
      }
    }
  }

  /// The features of the final core, those selected most often first, then those last selected with
  /// the higher attribution.
  ///
  /// - Parameter cycles: what each cycle selected, in order.
  package func features(_ cycles: [[DistillationCycle.Feature]]) -> [Int] {
    var votes: [Int: Int] = [:]
    var attributions: [Int: Double] = [:]
    for feature in cycles.joined() {
      votes[feature.id, default: 0] += 1
      attributions[feature.id] = feature.attribution
    }
    let kept: [Int] =
      switch self {
      case .last: (cycles.last ?? []).map(\.id)
      case .votes(let least): votes.filter { $0.value >= least }.map(\.key)
      case .intersection(let count):
        cycles.suffix(count).dropFirst().reduce(Set(cycles.suffix(count).first?.map(\.id) ?? [])) {
          $0.intersection($1.map(\.id))
        }.map(\.self)
      }
    return kept.sorted {
      let (first, second) = (votes[$0] ?? 0, votes[$1] ?? 0)
      if first != second { return first > second }
      let (more, less) = (attributions[$0] ?? 0, attributions[$1] ?? 0)
      return more != less ? more > less : $0 < $1
    }
  }
}
