internal import GranuleStatistics

/// Notices a loss that will not come back.
package struct DivergenceWatch {
  /// Multiple of the running median above which a loss is suspect.
  static let factor = 10.0
  /// Steps that the median is of.
  static let window = 101

  /// Suspect losses in a row that are too many.
  let stepsMax: Int
  private var recent: [Double]
  private var next = 0
  private var suspects = 0

  /// Whether the last loss may be the first sign of divergence.
  package var isSuspect: Bool { suspects > 0 }

  /// The losses that the median is of, the oldest first: what a watch that goes on must know.
  package var recentLosses: [Double] { Array(recent[next...] + recent[..<next]) }

  /// - Parameter recentLosses: those of the watch that this one goes on for, at most `window`.
  package init(stepsMax: Int, recentLosses: [Double] = []) {
    self.stepsMax = stepsMax
    recent = recentLosses
  }

  /// Takes a step's loss; false if training has diverged.
  package mutating func isSound(_ loss: Double) -> Bool {
    guard loss.isFinite else { return false }
    if let median, loss > Self.factor * median {
      suspects += 1
      // They do not count, or they would become the median themselves.
      return suspects < stepsMax
    }
    suspects = 0
    if recent.count < Self.window {
      recent.append(loss)
    } else {
      recent[next] = loss
      next = (next + 1) % Self.window
    }
    return true
  }

  /// Why `isSound` said no.
  package func reason(_ loss: Double) -> String {
    guard loss.isFinite, let median else { return "the loss is \(loss)" }
    return "the loss, \(loss), is more than \(Int(Self.factor)) times the running median \(median) "
      + "for \(stepsMax) steps"
  }

  private var median: Double? { Quantile.median(recent) }
}
