import GranuleWire

/// Every bound of the server, in one place; `ServerLimits.all` names them for flags and
/// documentation.
public struct ServerLimits: Sendable {
  // MARK: Frames and memory

  /// The longest frame accepted or sent, in bytes without its length.
  public var frameBytesMax = FrameDecoder.frameBytesMaxDefault
  /// Memory that one unpacked request may take, in bytes; a short one is bounded by its length too.
  public var requestMemoryBytesMax = 96 << 20
  /// Memory that all connections together may take for frames that have not arrived in full, in
  /// bytes.
  public var receiveBytesMax = 512 << 20
  /// What a connection may hold of that before it can be refused, in bytes.
  public var receiveBytesFree = 1 << 20
  /// Bytes of admitted requests and of their largest possible responses, until those are written.
  public var admittedBytesMax = 1 << 30

  // MARK: Connections

  /// Connections at once; further ones are told to come back. Lowered to what the system's limit of
  /// open files allows.
  public var connectionsMax = 1024
  /// Open files left for everything but connections.
  public var filesReserved = 128
  /// Connections at once at the address of administration.
  public var adminConnectionsMax = 32
  /// Requests in flight on a connection; beyond, it is not read from.
  public var requestsPerConnectionMax = 1024
  /// Frames of a connection that are answered before others have their turn.
  public var framesPerTurnMax = 16
  /// A connection with more bytes waiting to be written is not read from …
  public var writeQueueHighBytes = 8 << 20
  /// … until no more than these wait.
  public var writeQueueLowBytes = 1 << 20
  /// Over how long a peer's rate is measured while it sends a frame or reads responses.
  public var stall: Duration = .seconds(30)
  /// The least bytes a second that it must then move; slower ones are closed.
  public var bytesPerSecondMin = 4096
  /// How long a connection may stay without requests.
  public var idle: Duration = .seconds(3600)
  /// How often connections are looked at for that.
  public var sweepInterval: Duration = .seconds(1)
  /// Connections at once at the HTTP address; further ones wait.
  public var httpConnectionsMax = 24
  /// How long such a connection may stay without traffic.
  public var httpIdle: Duration = .seconds(30)
  /// After an error that ends a connection: what the peer may still send before it is cut off, in
  /// bytes …
  public var discardBytesMax = 80 << 20
  /// … and how long it may take to read the error.
  public var finish: Duration = .seconds(5)

  // MARK: Computing

  /// Tokens that may wait for a worker.
  public var queueTokensMax = 1 << 18
  /// How long a request may be expected to wait for a worker; beyond, it is told to come back.
  public var queueWaitMax: Duration = .seconds(10)
  /// Tokens that a worker takes at once, of one request or of several.
  public var batchTokensMax = 256
  /// Bytes of activations, as float32, that a worker takes at once.
  public var batchBytesMax = 16 << 20
  /// Tokens that are not worth splitting any further.
  public var pieceTokensMin = 64
  /// After so long without requests, memory that the allocator keeps is given back to the system.
  public var trimAfter: Duration = .seconds(10)
  /// Granularities of one request.
  public var stagesMax = 64
  /// Where requests wait longer than this on average, those that allow it are given a smaller
  /// granularity, step by step …
  public var shedAbove: Duration = .milliseconds(100)
  /// … and where they wait shorter than this, larger ones again.
  public var shedBelow: Duration = .milliseconds(25)
  /// Over how long waits are averaged: the shortest time between two such steps.
  public var shedInterval: Duration = .milliseconds(100)

  // MARK: Administration and retries

  /// Requests of administration that may wait for the loader.
  public var administrationRequestsMax = 64
  /// After how long a version that could not be loaded is tried again though its files are the same;
  /// twice as long after each further time …
  public var loadRetryMin: Duration = .seconds(10)
  /// … up to this.
  public var loadRetryMax: Duration = .seconds(900)
  /// When a client that found no room should try again at the earliest, in milliseconds.
  public var retryAfterMilliseconds: UInt32 = 100
  /// When a client that asked for a model which is being loaded should try again, in milliseconds.
  public var retryAfterLoadingMilliseconds: UInt32 = 1000

  // MARK: Log and metrics

  /// Log lines of one kind that are written at once; beyond, one an interval.
  public var logBurst = 10
  /// That interval.
  public var logInterval: Duration = .seconds(1)
  /// An overload is over once for so long nobody was refused, or given less than asked for.
  public var overloadQuiet: Duration = .seconds(10)
  /// Models that have metrics of their own; further ones are counted together.
  public var metricsModelsMax = 100

  /// The defaults.
  public init() {}
}
