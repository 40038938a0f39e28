import GranuleEngine
public import GranuleTransport
public import Logging

/// What a server is told when it starts.
public struct ServerOptions: Sendable {
  /// The folder of published models.
  public var repository: String
  /// Address at which requests are answered; port 0 picks a free port.
  public var listen: SocketAddress
  /// Address at which administration is answered too; nil is a Unix socket in the repository.
  public var adminListen: SocketAddress?
  /// Address at which metrics and probes are answered over HTTP; nil leaves HTTP out.
  public var httpListen: SocketAddress?
  /// Number of threads that compute; nil starts one for each core.
  public var workers: Int?
  /// The most latents of each model to keep in memory, until it is resized by request; nil keeps all.
  public var granularityMax: Int?
  /// Time between two looks at the repository for new versions.
  public var pollInterval: Duration = .seconds(1)
  /// How long requests in flight may take once the server has been told to stop.
  public var drainTimeout: Duration = .seconds(30)
  /// Called once the server has been told to stop, on its own thread.
  public var willStop: @Sendable () -> Void = {}
  /// The limits.
  public var limits = ServerLimits()
  /// Where the server logs what it does.
  public var logger = Logger(label: "granule")

  /// A server of `repository` at `listen`, with everything else at its default.
  public init(repository: String, listen: SocketAddress) {
    self.repository = repository
    self.listen = listen
  }

  /// The name of the admin socket in the repository, unless another address is given.
  public static let adminSocketName = ".granule-admin.sock"

  /// The address at which administration is answered.
  func adminAddress() throws(EventLoopError) -> SocketAddress {
    if let adminListen { return adminListen }
    do throws(EventLoopError) {
      return try SocketAddress("unix:\(repository)/\(Self.adminSocketName)")
    } catch {
      throw EventLoopError(
        operation: error.operation,
        reason: "\(error.reason), or give the admin address with --admin-listen")
    }
  }

  /// What the engine is told.
  var engine: EngineOptions {
    var options = EngineOptions(repository: repository)
    options.workers = workers
    options.granularityMax = granularityMax
    options.pollInterval = pollInterval
    options.limits = limits.engine
    options.logger = logger
    options.version = Server.version
    return options
  }
}
