public import GranuleEngine
import GranuleHTTP
import GranuleThreads
public import GranuleTransport

/// A server in the caller's process: an engine, and what listens.
///
/// It changes nothing of the process: no signal is handled or ignored, and no limit is raised. A
/// process that serves many connections raises its own limit on open files first.
public enum Server {
  /// The server's own version, as `status` tells it.
  public static let version = "0.1.0"

  /// Starts a server on threads of its own; returns once it listens and the repository has been read
  /// once.
  ///
  /// Models that cannot be loaded do not keep it from starting: they are logged and listed as
  /// failed.
  ///
  /// - Throws: `ServerLimitError` if the limits contradict each other, `EngineStartError` if the
  ///   repository is not a folder, `EventLoopError` if an address cannot be used.
  public static func start(_ options: ServerOptions) throws -> RunningServer {
    try options.limits.validate()
    let engine = try Engine(options.engine)
    do { return try listen(options, engine) } catch {
      engine.stop()
      throw error
    }
  }

  private static func listen(_ options: ServerOptions, _ engine: Engine) throws -> RunningServer {
    let thread = try LoopThread(name: "server")
    let started = Handover<(LoopBound<ServerCore>, Result<Addresses, EventLoopError>)>()
    thread.remote.post { loop in
      let core = ServerCore(loop: loop, options: options, engine: engine)
      let bound = LoopBound(core, to: loop)
      do throws(EventLoopError) { started.give((bound, .success(try core.start()))) } catch {
        started.give((bound, .failure(error)))
      }
    }
    let (core, addresses) = started.take()
    do {
      let (address, adminAddress) = try addresses.get()
      let http = try options.httpListen.map {
        try HTTPServer(
          address: $0, connectionsMax: options.limits.httpConnectionsMax,
          idleSeconds: Int(options.limits.httpIdle / .seconds(1)),
          answer: pages(thread.remote, core, engine).page)
      }
      return RunningServer(
        engine: engine, address: address, adminAddress: adminAddress, http: http, thread: thread,
        core: core)
    } catch {
      thread.stop()
      thread.join()
      // Until here, because what the loop still had to close refers to it.
      withExtendedLifetime(core) {}
      throw error
    }
  }

  private typealias Addresses = (address: SocketAddress, admin: SocketAddress)

  private static func pages(
    _ remote: LoopRemote, _ core: LoopBound<ServerCore>, _ engine: Engine
  ) -> OperationsPages {
    /// Nil if the event loop has ended. What was posted before that is always run.
    @Sendable func ask<R: Sendable>(_ question: @escaping @Sendable (ServerCore) -> R) -> R? {
      let answer = Handover<R>()
      guard remote.post({ loop in answer.give(question(core.get(on: loop))) }) else { return nil }
      return answer.take()
    }
    return OperationsPages(
      snapshot: { ask { $0.snapshot() } }, isReady: { ask { $0.engine.isReady } })
  }
}

/// A server that runs on threads of its own.
public final class RunningServer: Sendable {
  /// The engine, which takes calls of this process too.
  public let engine: Engine
  /// Address at which it answers, with the port that was picked if 0 was asked for.
  public let address: SocketAddress
  /// Address at which it answers administration too.
  public let adminAddress: SocketAddress
  /// Address at which it answers HTTP; nil if it does not.
  public var httpAddress: SocketAddress? { http?.address }
  private let http: HTTPServer?
  private let thread: LoopThread
  private let core: LoopBound<ServerCore>

  init(
    engine: Engine, address: SocketAddress, adminAddress: SocketAddress, http: HTTPServer?,
    thread: LoopThread, core: LoopBound<ServerCore>
  ) {
    self.engine = engine
    self.address = address
    self.adminAddress = adminAddress
    self.http = http
    self.thread = thread
    self.core = core
  }

  /// Tells the server to stop: no new connections and requests are taken, and those admitted are
  /// answered.
  public func beginStop() {
    let core = core
    thread.remote.post { loop in core.get(on: loop).drain() }
  }

  /// Waits until the server has stopped, and its threads have ended.
  ///
  /// - Parameter finishingLoad: false if the process ends next: then a dictionary that is being read,
  ///   which may take longer than the drain timeout, is not waited for.
  public func wait(finishingLoad: Bool = true) {
    thread.join()
    http?.stop()
    engine.stop(finishingLoad: finishingLoad)
  }

  /// Tells the server to stop and waits until it has.
  public func stop() {
    beginStop()
    wait()
  }
}
