import GranuleEngine

/// One of the server's limits, as flags and documentation name it.
public struct ServerLimit: Sendable {
  /// What its number counts.
  public enum Unit: String, Sendable {
    /// Bytes; written with KiB, MiB or GiB if it comes out whole.
    case bytes
    /// Bytes a second.
    case bytesPerSecond = "bytes/s"
    /// Tokens.
    case tokens
    /// A number of things.
    case count = ""
    /// Seconds, not necessarily whole.
    case seconds = "s"
    /// Whole milliseconds.
    case milliseconds = "ms"
  }

  /// As in `--limit NAME=VALUE`.
  public let name: String
  /// The unit of its number.
  public let unit: Unit
  /// What it limits.
  public let meaning: String
  /// The values that make sense by themselves.
  public let range: ClosedRange<Double>
  private let read: @Sendable (ServerLimits) -> Double
  private let write: @Sendable (inout ServerLimits, Double) -> Void

  /// The limit's number.
  public func value(in limits: ServerLimits) -> Double { read(limits) }

  /// The number as `ServerLimits.set(_:)` reads it.
  public func text(in limits: ServerLimits) -> String {
    let value = read(limits)
    guard value == value.rounded() else { return "\(value)" }
    let whole = Int(value)
    guard unit == .bytes else { return "\(whole)" }
    for (suffix, shift) in Self.suffixes where whole > 0 && whole % (1 << shift) == 0 {
      return "\(whole >> shift)\(suffix)"
    }
    return "\(whole)"
  }

  /// The number with its unit, such as `64MiB`, `30 s` or `1024`.
  public func quantity(in limits: ServerLimits) -> String {
    let number = text(in: limits)
    return unit == .count || number.hasSuffix("iB") ? number : "\(number) \(unit.rawValue)"
  }

  fileprivate static let suffixes = [("GiB", 30), ("MiB", 20), ("KiB", 10)]

  /// - Throws: `ServerLimitError` if the text is not a number of the unit in range.
  fileprivate func set(_ text: Substring, in limits: inout ServerLimits) throws(ServerLimitError) {
    var digits = text
    var scale = 1.0
    if unit == .bytes {
      for (suffix, shift) in Self.suffixes where text.hasSuffix(suffix) {
        digits = text.dropLast(suffix.count)
        scale = Double(1 << shift)
      }
    }
    guard let number = Double(digits), number.isFinite,
      unit == .seconds || number == number.rounded()
    else {
      throw ServerLimitError("\(name): \(text) is not a number of \(unit.rawValue)")
    }
    try check(number * scale)
    write(&limits, number * scale)
  }

  fileprivate func check(_ value: Double) throws(ServerLimitError) {
    guard range.contains(value) else {
      throw ServerLimitError(
        "\(name): is \(value); it must be \(range.lowerBound) to \(range.upperBound) \(unit.rawValue)"
      )
    }
  }

  fileprivate init(
    _ name: String, _ path: any (WritableKeyPath<ServerLimits, Int> & Sendable),
    _ unit: Unit,
    from least: Double = 1, to most: Double = 1e15, _ meaning: String
  ) {
    self.init(
      name: name, unit: unit, meaning: meaning, range: least...most,
      read: { Double($0[keyPath: path]) }, write: { $0[keyPath: path] = Int($1) })
  }

  fileprivate init(
    _ name: String, _ path: any (WritableKeyPath<ServerLimits, UInt32> & Sendable),
    _ meaning: String
  ) {
    self.init(
      name: name, unit: .milliseconds, meaning: meaning, range: 1...3_600_000,
      read: { Double($0[keyPath: path]) }, write: { $0[keyPath: path] = UInt32($1) })
  }

  fileprivate init(
    _ name: String, _ path: any (WritableKeyPath<ServerLimits, Duration> & Sendable),
    from least: Double = 0.001, _ meaning: String
  ) {
    self.init(
      name: name, unit: .seconds, meaning: meaning, range: least...31_536_000,
      read: { $0[keyPath: path] / .seconds(1) },
      write: { $0[keyPath: path] = .microseconds(Int64(($1 * 1e6).rounded())) })
  }

  private init(
    name: String, unit: Unit, meaning: String, range: ClosedRange<Double>,
    read: @escaping @Sendable (ServerLimits) -> Double,
    write: @escaping @Sendable (inout ServerLimits, Double) -> Void
  ) {
    self.name = name
    self.unit = unit
    self.meaning = meaning
    self.range = range
    self.read = read
    self.write = write
  }
}

/// Why limits make no sense.
public struct ServerLimitError: Error, CustomStringConvertible, Sendable {
  /// The limit, and what it must be.
  public let description: String

  init(_ description: String) { self.description = description }
}

extension ServerLimits {
  /// Every limit.
  public static let all: [ServerLimit] = [
    ServerLimit(
      "frame-bytes-max", \.frameBytesMax, .bytes, from: 1024, to: 4_294_967_295,
      "longest frame accepted or sent"),
    ServerLimit(
      "request-memory-bytes-max", \.requestMemoryBytesMax, .bytes,
      "memory that one unpacked request may take; never more than four times its length plus 64 KiB"
    ),
    ServerLimit(
      "receive-bytes-max", \.receiveBytesMax, .bytes,
      "memory for frames that have not arrived in full, over all connections; beyond, the connections that hold most are ended"
    ),
    ServerLimit(
      "receive-bytes-free", \.receiveBytesFree, .bytes,
      "what one connection may hold of receive-bytes-max before it can be ended"),
    ServerLimit(
      "admitted-bytes-max", \.engine.admittedBytesMax, .bytes,
      "requests in flight and their largest possible responses; one connection may use as much as it leaves free; a request that does not fit gets UNAVAILABLE"
    ),
    ServerLimit("connections-max", \.connectionsMax, .count, "connections at once"),
    ServerLimit(
      "files-reserved", \.filesReserved, .count, from: 16,
      "open files left for everything but connections"),
    ServerLimit(
      "admin-connections-max", \.adminConnectionsMax, .count, to: 1024,
      "connections at once at the admin address"),
    ServerLimit(
      "requests-per-connection-max", \.requestsPerConnectionMax, .count,
      "requests in flight on a connection; beyond, it is not read from"),
    ServerLimit(
      "frames-per-turn-max", \.framesPerTurnMax, .count,
      "frames of one connection that are read before others have their turn"),
    ServerLimit(
      "write-queue-high-bytes", \.writeQueueHighBytes, .bytes,
      "a connection with more bytes waiting to be written is not read from"),
    ServerLimit(
      "write-queue-low-bytes", \.writeQueueLowBytes, .bytes, from: 0,
      "reading goes on once no more bytes than this wait to be written"),
    ServerLimit(
      "stall", \.stall,
      "time over which a peer's rate is measured while it sends a frame or reads responses"),
    ServerLimit(
      "bytes-per-second-min", \.bytesPerSecondMin, .bytesPerSecond, from: 0, to: 1e9,
      "least rate of a peer over the stall time; slower peers are closed"),
    ServerLimit("idle", \.idle, "time that a connection may stay without requests"),
    ServerLimit("sweep-interval", \.sweepInterval, "time between two checks of all connections"),
    ServerLimit(
      "http-connections-max", \.httpConnectionsMax, .count, to: 1024,
      "connections at once at the HTTP address; further ones wait"),
    ServerLimit(
      "http-idle", \.httpIdle, from: 1, "time that an HTTP connection may stay without traffic"),
    ServerLimit(
      "discard-bytes-max", \.discardBytesMax, .bytes, from: 0,
      "bytes that a refused peer may still send before it is cut off"),
    ServerLimit("finish", \.finish, "time that a refused peer may take to read the error"),
    ServerLimit(
      "queue-tokens-max", \.engine.queueTokensMax, .tokens,
      "tokens that may wait for a worker; one connection may queue as many as it leaves free; a request that does not fit gets UNAVAILABLE"
    ),
    ServerLimit(
      "queue-wait-max", \.engine.queueWaitMax,
      "longest expected wait for a worker; a request that would wait longer gets UNAVAILABLE"),
    ServerLimit(
      "batch-tokens-max", \.engine.batchTokensMax, .tokens, from: 32, to: 1_048_576,
      "tokens that a worker computes at once"),
    ServerLimit(
      "batch-bytes-max", \.engine.batchBytesMax, .bytes,
      "activations, as float32, that a worker computes at once"),
    ServerLimit(
      "piece-tokens-min", \.engine.pieceTokensMin, .tokens,
      "tokens that are not worth splitting further"),
    ServerLimit(
      "trim-after", \.engine.trimAfter,
      "time without requests after which unused memory is given back to the system"),
    ServerLimit("stages-max", \.engine.stagesMax, .count, "granularities of one request"),
    ServerLimit(
      "shed-above", \.engine.shedAbove, from: 0,
      "mean wait above which requests with min_granularity get a smaller granularity"),
    ServerLimit(
      "shed-below", \.engine.shedBelow, from: 0,
      "mean wait below which they get a larger granularity again"),
    ServerLimit(
      "shed-interval", \.engine.shedInterval, from: 0, "shortest time between two such changes"),
    ServerLimit(
      "administration-requests-max", \.engine.administrationRequestsMax, .count,
      "load, unload and resize requests that may wait"),
    ServerLimit(
      "load-retry-min", \.engine.loadRetryMin,
      "time after which a version that could not be loaded is tried again; it doubles with each failure"
    ),
    ServerLimit(
      "load-retry-max", \.engine.loadRetryMax,
      "longest such time; a version is tried again at once when its files change"),
    ServerLimit(
      "retry-after", \.engine.retryAfterMilliseconds,
      "earliest time after which a client that found no room should try again"),
    ServerLimit(
      "retry-after-loading", \.engine.retryAfterLoadingMilliseconds,
      "time after which a client that asked for a model being loaded should try again"),
    ServerLimit(
      "log-burst", \.engine.logBurst, .count,
      "log lines of one kind that are written at once; beyond, one each log-interval"),
    ServerLimit(
      "log-interval", \.engine.logInterval, "time between log lines of one kind after a burst"),
    ServerLimit(
      "overload-quiet", \.overloadQuiet,
      "time without refusals and cut answers after which an overload is over"),
    ServerLimit(
      "metrics-models-max", \.engine.metricsModelsMax, .count, to: 10_000,
      "models with metrics of their own; further models are counted together"),
  ]

  /// Pairs of limits whose first must not be above the second.
  package static let ordered: [(small: String, large: String, reason: String)] = [
    ("frame-bytes-max", "request-memory-bytes-max", "a frame is unpacked into memory"),
    ("frame-bytes-max", "receive-bytes-max", "a frame is held until it has arrived in full"),
    ("frame-bytes-max", "admitted-bytes-max", "a request and its response must find room"),
    (
      "frame-bytes-max", "discard-bytes-max",
      "a peer in the middle of a frame must be able to read the error"
    ),
    ("receive-bytes-free", "receive-bytes-max", "the one is part of the other"),
    ("write-queue-low-bytes", "write-queue-high-bytes", "reading goes on below the one"),
    ("piece-tokens-min", "batch-tokens-max", "a batch holds a piece"),
    ("batch-tokens-max", "queue-tokens-max", "a batch is formed from what waits"),
    ("shed-below", "shed-above", "nothing changes between the two"),
    ("shed-above", "queue-wait-max", "granularity is shed before requests are"),
    ("http-connections-max", "files-reserved", "each connection is an open file"),
    ("admin-connections-max", "files-reserved", "each connection is an open file"),
    ("load-retry-min", "load-retry-max", "the delay grows from the one to the other"),
    ("sweep-interval", "trim-after", "each sweep checks whether requests came"),
    ("sweep-interval", "overload-quiet", "each sweep checks for overload"),
    ("sweep-interval", "stall", "each sweep measures rates"),
    ("sweep-interval", "idle", "each sweep looks for idle connections"),
  ]

  /// Sets a limit.
  ///
  /// - Parameter assignment: `NAME=VALUE`, such as `frame-bytes-max=16MiB` or `stall=2.5`.
  /// - Throws: `ServerLimitError` if there is no such limit, or the value makes no sense.
  public mutating func set(_ assignment: String) throws(ServerLimitError) {
    let parts = assignment.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2 else {
      throw ServerLimitError("\(assignment): must be NAME=VALUE, such as stall=10")
    }
    guard let limit = Self.all.first(where: { $0.name == parts[0] }) else {
      throw ServerLimitError(
        "\(parts[0]): there is no such limit; `granule serve --help` lists them")
    }
    try limit.set(parts[1], in: &self)
  }

  /// Checks each limit, and all of them against each other.
  ///
  /// - Throws: `ServerLimitError` that names every contradiction.
  public func validate() throws(ServerLimitError) {
    for limit in Self.all { try limit.check(limit.value(in: self)) }
    var contradictions: [String] = []
    for (small, large, reason) in Self.ordered {
      guard let low = Self.all.first(where: { $0.name == small }),
        let high = Self.all.first(where: { $0.name == large })
      else { preconditionFailure("\(small), \(large): are not limits") }
      guard low.value(in: self) > high.value(in: self) else { continue }
      contradictions.append(
        "\(small) is \(low.text(in: self)), above \(large), which is \(high.text(in: self)): \(reason)"
      )
    }
    if !contradictions.isEmpty { throw ServerLimitError(contradictions.joined(separator: "; ")) }
  }
}
