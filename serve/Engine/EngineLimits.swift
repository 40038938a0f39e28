/// The engine's bounds.
public struct EngineLimits: Sendable {
  // MARK: Room

  /// Bytes of admitted requests and their largest possible responses, until those are written.
  public var admittedBytesMax = 1 << 30
  /// Tokens that may wait for a worker.
  public var queueTokensMax = 1 << 18
  /// How long a request may be expected to wait for a worker; beyond, it is told to come back.
  public var queueWaitMax: Duration = .seconds(10)
  /// Granularities of one request.
  public var stagesMax = 64
  /// When a client that found no room should try again at the earliest, in milliseconds.
  public var retryAfterMilliseconds: UInt32 = 100

  // MARK: Batches

  /// Tokens that a worker takes at once, of one request or of several.
  public var batchTokensMax = 256
  /// Bytes of activations, as float32, that a worker takes at once.
  public var batchBytesMax = 16 << 20
  /// Tokens that are not worth splitting any further.
  public var pieceTokensMin = 64

  // MARK: Load

  /// Mean wait above which requests that allow it get a smaller granularity, step by step.
  public var shedAbove: Duration = .milliseconds(100)
  /// Mean wait below which such requests get larger granularities again.
  public var shedBelow: Duration = .milliseconds(25)
  /// Over how long waits are averaged: the shortest time between two such steps.
  public var shedInterval: Duration = .milliseconds(100)
  /// Time without requests after which memory that the allocator keeps is given back to the system.
  public var trimAfter: Duration = .seconds(10)

  // MARK: Administration and loading

  /// Requests of administration that may wait for the loader.
  public var administrationRequestsMax = 64
  /// Time after which a version that could not be loaded is tried again although its files are the
  /// same; it doubles with each further failure.
  public var loadRetryMin: Duration = .seconds(10)
  /// The longest such time.
  public var loadRetryMax: Duration = .seconds(900)
  /// When a client that asked for a model which is being loaded should try again, in milliseconds.
  public var retryAfterLoadingMilliseconds: UInt32 = 1000

  // MARK: Log and metrics

  /// Log lines of one kind that are written at once; beyond, one is written each interval.
  public var logBurst = 10
  /// The interval between log lines of one kind after a burst.
  public var logInterval: Duration = .seconds(1)
  /// Models with metrics of their own; further models are counted together.
  public var metricsModelsMax = 100

  /// The defaults.
  public init() {}
}
