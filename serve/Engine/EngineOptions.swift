public import Logging

/// What an engine is told when it starts.
public struct EngineOptions: Sendable {
  /// The folder of published models.
  public var repository: String
  /// Number of threads that compute; nil starts one for each core.
  public var workers: Int?
  /// The most latents of each model to keep in memory, until it is resized by request; nil keeps all.
  public var granularityMax: Int?
  /// Time between two looks at the repository for new versions.
  public var pollInterval: Duration = .seconds(1)
  /// The bounds.
  public var limits = EngineLimits()
  /// Where the engine logs what it does.
  public var logger = Logger(label: "granule")
  /// The version that `Call.status` reports.
  public var version = ""

  /// An engine for `repository`, with everything else at its default.
  public init(repository: String) { self.repository = repository }
}

/// Why an engine cannot start.
public struct EngineStartError: Error, CustomStringConvertible, Sendable {
  /// What is wrong, and what to do.
  public let description: String
}
