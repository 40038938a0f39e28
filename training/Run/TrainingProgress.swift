extension Trainer {
  /// What is known after a step.
  public struct Progress: Sendable {
    /// What takes the time.
    public enum Activity: Sendable, Equatable {
      /// A step was done.
      case step
      /// The dictionary as of this step is measured on held-out activations: the share done.
      case validation(Double)
      /// The finished dictionary's granularities are measured: the share done.
      case calibration(Double)
    }

    /// What takes the time.
    public var activity: Activity
    /// Number of steps of the run.
    public var steps: Int
    /// The last step that was done.
    public var metrics: StepMetrics
    /// FVU of held-out activations at full size, as of the last validation; nil before the first.
    public var heldOutFVU: Double?
    /// Seconds left at the rate of the last seconds.
    public var secondsLeft: Double
  }
}
