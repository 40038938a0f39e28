public import GranuleEngine
import GranuleWire

/// Every bound of the server, in one place; `ServerLimits.all` names them for flags and
/// documentation.
public struct ServerLimits: Sendable {
  /// The engine's bounds: room, batches, load, administration, log and metrics.
  public var engine = EngineLimits()

  // MARK: Frames and memory

  /// The longest frame accepted or sent, in bytes without its length.
  public var frameBytesMax = FrameDecoder.frameBytesMaxDefault
  /// Memory that one unpacked request may take, in bytes; a short request is bounded by its length
  /// too.
  public var requestMemoryBytesMax = 96 << 20
  /// Memory that all connections together may take for frames that have not arrived in full, in
  /// bytes.
  public var receiveBytesMax = 512 << 20
  /// Bytes of that memory that a connection may hold before it can be ended.
  public var receiveBytesFree = 1 << 20

  // MARK: Connections

  /// Connections at once; further ones are told to come back. Lowered to what the system's limit on
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
  /// Bytes waiting to be written above which a connection is not read from.
  public var writeQueueHighBytes = 8 << 20
  /// Bytes waiting to be written at which reading goes on.
  public var writeQueueLowBytes = 1 << 20
  /// Over how long a peer's rate is measured while it sends a frame or reads responses.
  public var stall: Duration = .seconds(30)
  /// The least rate in bytes per second over that time; slower peers are closed.
  public var bytesPerSecondMin = 4096
  /// How long a connection may stay without requests.
  public var idle: Duration = .seconds(3600)
  /// Time between two checks of all connections.
  public var sweepInterval: Duration = .seconds(1)
  /// Connections at once at the HTTP address; further ones wait.
  public var httpConnectionsMax = 24
  /// How long an HTTP connection may stay without traffic.
  public var httpIdle: Duration = .seconds(30)
  /// Bytes that a peer may still send after an error that ends its connection, before it is cut off.
  public var discardBytesMax = 80 << 20
  /// How long such a peer may take to read the error.
  public var finish: Duration = .seconds(5)
  /// Time without refusals and cut answers after which an overload is over.
  public var overloadQuiet: Duration = .seconds(10)

  /// The defaults.
  public init() {}
}
