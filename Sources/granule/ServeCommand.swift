import ArgumentParser
import Glibc
import GranuleServer
import GranuleThreads
import GranuleTransport
import Logging

/// `granule serve`: answers requests for the models of a repository.
struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve the dictionaries of a model repository.",
    discussion: """
      Prints one line on standard output once it answers, and logs on standard error. New versions that are \
      published while it runs take over without a failed request. SIGTERM and SIGINT end it after what it has \
      admitted; a second one at once.

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

  @Option(help: ArgumentHelp("The folder of published models.", valueName: "folder"))
  var repository: String

  @Option(
    help: ArgumentHelp(
      "Where to answer: HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 picks a free one.",
      valueName: "address"))
  var listen: SocketAddress

  @Option(
    help: ArgumentHelp(
      "Where to answer administration too; a Unix socket in the repository by default.",
      valueName: "address"))
  var adminListen: SocketAddress?

  @Option(
    help: ArgumentHelp(
      "Where to answer HTTP: /metrics for Prometheus, /healthz and /readyz; nowhere by default.",
      valueName: "address"))
  var http: SocketAddress?

  @Option(help: ArgumentHelp("Threads that compute; one a core by default.", valueName: "count"))
  var workers: Int?

  @Option(
    help: ArgumentHelp(
      "The most latents of each model to keep in memory, until it is resized; all by default.",
      valueName: "latents"))
  var maxGranularity: Int?

  @Option(
    help: ArgumentHelp(
      "Seconds between two looks at the repository for new versions.", valueName: "seconds"))
  var pollInterval = 1.0

  @Option(
    help: ArgumentHelp(
      "Seconds that requests in flight may take once the server has been told to stop.",
      valueName: "seconds"))
  var drainTimeout = 30.0

  @Option(
    help: ArgumentHelp(
      "Sets a limit, such as stall=10; may be given again. They are listed above.",
      valueName: "name=value"))
  var limit: [String] = []

  @Option(help: ArgumentHelp("The least important messages to log: debug, info, warning or error."))
  var logLevel = "info"

  func validate() throws {
    if let workers, !(1...1024).contains(workers) {
      throw ValidationError("--workers: is \(workers); it must be 1 to 1024")
    }
    if let maxGranularity, maxGranularity < 1 {
      throw ValidationError("--max-granularity: is \(maxGranularity); it must be at least 1")
    }
    for (name, seconds) in [("--poll-interval", pollInterval), ("--drain-timeout", drainTimeout)] {
      guard seconds >= 0.001, seconds <= 86_400 else {
        throw ValidationError("\(name): is \(seconds); it must be 0.001 to 86400 seconds")
      }
    }
    do throws(ServerLimitError) { _ = try limits() } catch {
      throw ValidationError("--limit: \(error)")
    }
    guard ["debug", "info", "warning", "error"].contains(logLevel) else {
      throw ValidationError("--log-level: \(logLevel) is none of debug, info, warning, error")
    }
  }

  private func limits() throws(ServerLimitError) -> ServerLimits {
    var limits = ServerLimits()
    for assignment in limit { try limits.set(assignment) }
    try limits.validate()
    return limits
  }

  func run() throws {
    ProcessSettings.ignoreBrokenPipes()
    ProcessSettings.raiseOpenFilesLimit()
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
    // A script that waits for the line reads it through a pipe.
    fflush(nil)
    service.tell("READY=1")
    server.wait(finishingLoad: false)
    fflush(nil)
    // Without what exit(3) runs: the loader may be at work.
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
