import ArgumentParser
import Glibc
import GranuleCommandLine
import GranuleServer
import GranuleThreads
import GranuleTransport
import Logging

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve the dictionaries of a model repository.",
    discussion: """
      The server prints one line on standard output when it is ready, and logs on standard error. \
      Versions that are published while it runs take over without a failed request. After SIGTERM or \
      SIGINT it answers the requests that it has admitted and exits; a second signal ends it at once.

      EXAMPLE
        granule serve --repository models --listen 127.0.0.1:7700 --limit idle=600

      LIMITS (--limit NAME=VALUE; bytes may be written with KiB, MiB or GiB)
      \(limitLines)
      """)

  private static var limitLines: String {
    let defaults = ServerLimits()
    return ServerLimits.all.map { limit in
      "  \(limit.name) (\(limit.quantity(in: defaults))): \(limit.meaning)"
    }.joined(separator: "\n")
  }

  @Option(help: ArgumentHelp("Folder of the model repository.", valueName: "folder"))
  var repository: String

  @Option(
    help: ArgumentHelp(
      "Address to listen on: HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 picks a free one.",
      valueName: "address"))
  var listen: SocketAddress

  @Option(
    help: ArgumentHelp(
      "Address that also answers administration. Default: a Unix socket in the repository.",
      valueName: "address"))
  var adminListen: SocketAddress?

  @Option(
    help: ArgumentHelp(
      "Address that answers HTTP: /metrics for Prometheus, /healthz and /readyz. Default: none.",
      valueName: "address"))
  var http: SocketAddress?

  @Option(
    help: ArgumentHelp("Number of computing threads. Default: one per core.", valueName: "count"))
  var workers: Int?

  @Option(
    help: ArgumentHelp(
      "Largest number of latents of each model to keep in memory, until the model is resized. "
        + "Default: all.", valueName: "latents"))
  var maxGranularity: Int?

  @Option(
    help: ArgumentHelp(
      "Seconds from one look for new versions in the repository to the next.",
      valueName: "seconds"))
  var pollInterval = 1.0

  @Option(
    help: ArgumentHelp(
      "Seconds in which admitted requests may finish after the server has been told to stop.",
      valueName: "seconds"))
  var drainTimeout = 30.0

  @Option(
    help: ArgumentHelp(
      "Limit to set, such as stall=10; repeat the option for more. LIMITS lists them.",
      valueName: "name=value"))
  var limit: [String] = []

  @Option(
    help: ArgumentHelp("Least severe messages to log: debug, info, warning or error."))
  var logLevel = "info"

  func validate() throws {
    try require("--workers", workers, in: 1...1024)
    try require("--max-granularity", maxGranularity, atLeast: 1)
    for (name, seconds) in [("--poll-interval", pollInterval), ("--drain-timeout", drainTimeout)] {
      try require(name, seconds, in: 0.001...86_400, "seconds")
    }
    do throws(ServerLimitError) { _ = try limits() } catch {
      throw ValidationError("--limit: \(error)")
    }
    guard ["debug", "info", "warning", "error"].contains(logLevel) else {
      throw ValidationError("--log-level: \(logLevel) is not one of debug, info, warning, error")
    }
  }

  private func limits() throws(ServerLimitError) -> ServerLimits {
    var limits = ServerLimits()
    for assignment in limit { try limits.set(assignment) }
    try limits.validate()
    return limits
  }

  func run() throws {
    LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
    var options = ServerOptions(repository: repository, listen: listen)
    options.adminListen = adminListen
    options.httpListen = http
    options.workers = workers
    options.granularityMax = maxGranularity
    options.pollInterval = .milliseconds(Int64(pollInterval * 1000))
    options.drainTimeout = .milliseconds(Int64(drainTimeout * 1000))
    options.limits = try limits()
    let service = ServiceManager()
    options.willStop = { service.tell("STOPPING=1") }
    options.logger = Logger(label: "granule")
    options.logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
    let server = try Server.start(options)
    try stopOnSignal(server)
    print(
      "granule: serving \(repository) on \(server.address) (admin \(server.adminAddress))"
        + (server.httpAddress.map { ", metrics at http://\($0)/metrics" } ?? ""))
    // A script that waits for the line may read it through a pipe, which is buffered.
    fflush(nil)
    service.tell("READY=1")
    server.wait(finishingLoad: false)
    fflush(nil)
    // exit(3) would run destructors, and the loader may still be at work.
    _exit(0)
  }

  /// SIGTERM and SIGINT stop the server; a second signal ends the process at once.
  private func stopOnSignal(_ server: RunningServer) throws {
    let signals = try LoopThread(name: "signals")
    let watched = Handover<Result<Void, EventLoopError>>()
    signals.remote.post { loop in
      var isStopping = false
      do throws(EventLoopError) {
        for signal in [SIGTERM, SIGINT] {
          _ = try SignalWatcher(loop: loop, signal: signal) {
            // As a shell reports a process that the signal ended.
            if isStopping { _exit(128 + signal) }
            isStopping = true
            server.beginStop()
          }
        }
        watched.give(.success(()))
      } catch {
        watched.give(.failure(error))
      }
    }
    try watched.take().get()
  }
}
