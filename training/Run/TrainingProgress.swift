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

    /// A prefix that was trained in the step.
    public typealias Prefix = StepMetrics.Prefix

    /// What takes the time.
    public var activity: Activity
    /// Steps done, of `steps`.
    public var step: Int
    /// Steps of the run.
    public var steps: Int
    /// Tokens trained on so far.
    public var tokens: Int
    /// The batch's loss: mean FVU over granularities, and the auxiliary loss and the penalty, weighted.
    public var loss: Double
    /// The granularities, ascending; the last is the full size.
    public var prefixes: [Prefix]
    /// FVU of held-out activations at full size, as of the last validation; nil before the first.
    public var heldOutFVU: Double?
    /// Mean number of active latents a token of the batch.
    public var l0: Double
    /// Mean number of active latents of the core a token of the batch; 0 without one.
    public var coreL0: Double
    /// Whether the core alone has more than three quarters of k, so that the others were given a
    /// quarter beyond.
    public var isFloored: Bool
    /// Latents that have not been active for `deadAfterTokens` tokens.
    public var deadLatents: Int
    /// Tokens a second, over the last seconds.
    public var tokensPerSecond: Double
    /// Seconds left at that rate.
    public var secondsLeft: Double
  }
}
