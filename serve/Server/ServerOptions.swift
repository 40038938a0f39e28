public import GranuleTransport
public import Logging

/// What a server is told when it starts.
public struct ServerOptions: Sendable {
  /// The folder of published models.
  public var repository: String
  /// Where requests are answered; port 0 picks a free one.
  public var listen: SocketAddress
  /// Where administration is answered too; nil: a Unix socket in the repository.
  public var adminListen: SocketAddress?
  /// Where metrics and probes are answered over HTTP; nil: nowhere.
  public var httpListen: SocketAddress?
  /// Threads that compute; nil: one a core.
  public var workers: Int?
  /// The most latents of each model to keep in memory, until it is resized by request; nil: all.
  public var granularityMax: Int?
  /// How often the repository is looked at for new versions.
  public var pollInterval: Duration = .seconds(1)
  /// How long requests in flight may take once the server has been told to stop.
  public var drainTimeout: Duration = .seconds(30)
  /// Whether SIGTERM and SIGINT stop the server; a second one ends the process at once.
  public var handlesSignals = false
  /// Called once the server has been told to stop, on its own thread.
  public var willStop: @Sendable () -> Void = {}
  /// The bounds.
  public var limits = ServerLimits()
  /// Where the server says what it does.
  public var logger = Logger(label: "granule")

  /// A server of `repository` at `listen`, with everything else at its default.
  public init(repository: String, listen: SocketAddress) {
    self.repository = repository
    self.listen = listen
  }

  /// The name of the admin socket in the repository, unless another address is given.
  public static let adminSocketName = ".granule-admin.sock"

  /// Where administration is answered.
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
}
