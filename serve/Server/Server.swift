import Glibc
import GranuleHTTP
import GranuleRepository
import GranuleThreads
public import GranuleTransport

/// Why a server cannot start.
public struct ServerStartError: Error, CustomStringConvertible, Sendable {
  /// What is wrong, and what to do.
  public let description: String
}

/// The server: from a repository to a process that answers.
public enum Server {
  /// The server's own version, as `status` tells it.
  public static let version = "0.1.0"

  /// Starts a server on threads of its own; returns once it listens, and the repository has been
  /// read once.
  ///
  /// Models that cannot be loaded do not keep it from starting: they are logged and listed as
  /// failed.
  ///
  /// - Throws: `ServerStartError` where the repository is no folder, `ServerLimitError` where the
  ///   bounds contradict each other, `EventLoopError` where an address cannot be used.
  public static func start(_ options: ServerOptions) throws -> RunningServer {
    try options.limits.validate()
    var status = stat()
    guard stat(options.repository, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      throw ServerStartError(
        description: "repository \(options.repository): is no folder; publish a dictionary first")
    }
    let models = ResidentModels(
      repository: ModelRepository(path: options.repository), limits: options.limits,
      granularityMax: options.granularityMax, log: EventLog(options.logger, limits: options.limits))
    try models.start()
    do {
      let polled = Handover<Bool>()
      models.poll { polled.give(true) }
      _ = polled.take()
      return try listen(options, models)
    } catch {
      models.stop()
      throw error
    }
  }

  private static func listen(_ options: ServerOptions, _ models: ResidentModels) throws
    -> RunningServer
  {
    let thread = try LoopThread(name: "server")
    let core = Handover<LoopBound<ServerCore>>()
    thread.remote.post { loop in
      core.give(
        LoopBound(ServerCore(loop: loop, options: options, models: models), to: loop))
    }
    let bound = core.take()
    let remote = thread.remote
    do {
      let workers = try ComputeWorkers(
        count: max(options.workers ?? Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))), 1),
        limits: options.limits
      ) { answer in
        remote.post { loop in bound.get(on: loop).deliver(answer) }
      }
      let started = Handover<Result<(SocketAddress, SocketAddress), EventLoopError>>()
      remote.post { loop in
        do throws(EventLoopError) {
          let addresses = try bound.get(on: loop).start(workers: workers)
          started.give(.success((addresses.address, addresses.admin)))
        } catch {
          started.give(.failure(error))
        }
      }
      do {
        let (address, adminAddress) = try started.take().get()
        let pages = OperationsPages(remote: remote, core: bound)
        let http: HTTPServer?
        if let listen = options.httpListen {
          http = try HTTPServer(
            address: listen, connectionsMax: options.limits.httpConnectionsMax,
            idleSeconds: Int(options.limits.httpIdle / .seconds(1)), answer: pages.page)
        } else {
          http = nil
        }
        return RunningServer(
          address: address, adminAddress: adminAddress, http: http, thread: thread, core: bound,
          workers: workers, models: models)
      } catch {
        workers.stop()
        throw error
      }
    } catch {
      thread.stop()
      thread.join()
      // Until here: what the loop still had to close looks at it.
      withExtendedLifetime(bound) {}
      throw error
    }
  }
}

/// A server that runs on threads of its own.
public final class RunningServer: Sendable {
  /// Where it answers, with the port that was picked where 0 was asked for.
  public let address: SocketAddress
  /// Where it answers administration too.
  public let adminAddress: SocketAddress
  /// Where it answers HTTP; nil: nowhere.
  public var httpAddress: SocketAddress? { http?.address }
  private let http: HTTPServer?
  private let thread: LoopThread
  private let core: LoopBound<ServerCore>
  private let workers: ComputeWorkers
  private let models: ResidentModels

  init(
    address: SocketAddress, adminAddress: SocketAddress, http: HTTPServer?, thread: LoopThread,
    core: LoopBound<ServerCore>, workers: ComputeWorkers, models: ResidentModels
  ) {
    self.address = address
    self.adminAddress = adminAddress
    self.http = http
    self.thread = thread
    self.core = core
    self.workers = workers
    self.models = models
  }

  /// Tells the server to stop: no new connections and requests, and those admitted are answered.
  public func beginStop() {
    let core = core
    thread.remote.post { loop in core.get(on: loop).drain() }
  }

  /// Waits until the server has stopped, and its threads have ended.
  ///
  /// - Parameter finishingLoad: false where the process ends next: a dictionary that is being read,
  ///   which may take longer than the drain timeout, is not waited for.
  public func wait(finishingLoad: Bool = true) {
    thread.join()
    http?.stop()
    workers.stop()
    if finishingLoad { models.stop() }
  }

  /// Tells the server to stop and waits until it has.
  public func stop() {
    beginStop()
    wait()
  }
}
