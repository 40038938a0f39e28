import GranuleReports
import GranuleTraining

extension Trainer.Progress {
  /// The largest number of granularities that one line shows.
  private static let prefixesMax = 8

  /// The figures of a step for a line of progress, two spaces apart.
  ///
  /// - Parameter isDrawn: whether each step draws new granularities, so that each is named.
  func text(isDrawn: Bool) -> String {
    let core =
      coreL0 > 0 ? " (core \(coreL0.formatted(digits: 1))\(isFloored ? ", exceeds k" : ""))" : ""
    let heldOut = heldOutFVU.map { ", held out \($0.formatted(digits: 3))" } ?? ""
    let fvu = shownPrefixes.map {
      (isDrawn ? "\($0.latents): " : "") + $0.fvu.formatted(digits: 3)
    }
    return [
      "step \(step)/\(steps)\(measuring)", "loss \(loss.formatted(digits: 3))",
      "FVU \(fvu.joined(separator: " "))\(heldOut)", "L0 \(l0.formatted(digits: 1))\(core)",
      "dead \(deadLatents.grouped)", "\(Int(tokensPerSecond).grouped) tokens/s",
    ].joined(separator: "  ")
  }

  /// All prefixes, or as many as `prefixesMax` at even distances, ending with the last.
  private var shownPrefixes: [Prefix] {
    let count = min(prefixes.count, Self.prefixesMax)
    return (0..<count).map { prefixes[($0 + 1) * prefixes.count / count - 1] }
  }

  private var measuring: String {
    func percent(_ share: Double) -> String { "\((100 * share).formatted(digits: 0)) %" }
    switch activity {
    case .step: return ""
    case .validation(let share): return ", validating \(percent(share))"
    case .calibration(let share): return ", calibrating \(percent(share))"
    }
  }
}
