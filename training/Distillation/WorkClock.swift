internal import GranuleRun

/// How much of all cycles is done, and how long the rest takes.
struct WorkClock {
  /// Tokens trained in the time of one attributed, roughly: only the time left depends on it.
  private static let tokensPerAttributed = 40.0

  private let trainingTokens: Double
  private let attributionTokens: Double
  private let total: Double
  private let start = ContinuousClock.now
  /// What was done before this process took over; known with the first progress.
  private var atStart: Double?

  init(_ configuration: DistillationConfiguration, cyclesDone: Int) {
    trainingTokens = Double(configuration.training.tokens)
    attributionTokens = Self.tokensPerAttributed * Double(configuration.attributionTokens)
    total = Double(configuration.cycles) * (trainingTokens + attributionTokens)
  }

  mutating func advance(
    cycle: Int, _ phase: Distillation.Progress.Phase
  ) -> (fraction: Double, secondsLeft: Double) {
    var done = Double(cycle - 1) * (trainingTokens + attributionTokens)
    switch phase {
    case .training(let progress): done += min(Double(progress.tokens), trainingTokens)
    case .attribution(let share): done += trainingTokens + share * attributionTokens
    }
    let before = atStart ?? done
    atStart = before
    let seconds = (ContinuousClock.now - start) / .seconds(1)
    let rate = (done - before) / max(seconds, 1e-9)
    return (done / total, (total - done) / rate)
  }
}
