import Glibc
import GranuleThreads
import GranuleTransport
import Synchronization

/// Ctrl-C and SIGTERM, for work that ends at a point of its own choosing.
package enum Interruption {
  /// Exit code of interrupted work: the one that shells use for SIGINT.
  package static let exitCode: Int32 = 130

  private static let wasRequested = Atomic(false)

  /// Whether the user has asked to stop.
  package static var isRequested: Bool { wasRequested.load(ordering: .relaxed) }

  /// Makes the first signal a request to stop, and the second end the process at once.
  package static func install() {
    for number in [SIGINT, SIGTERM] {
      signal(number) { _ in
        // Only what is safe in a signal handler: a lock-free atomic and _exit.
        if Interruption.wasRequested.exchange(true, ordering: .relaxed) {
          _exit(Interruption.exitCode)
        }
      }
    }
  }

  /// Runs work that Ctrl-C may interrupt, and takes the bar off the terminal when it ends.
  ///
  /// - Throws: `CommandError.interrupted` if the work throws `CancellationError` or fails after
  ///   Ctrl-C; otherwise what the work throws.
  package static func guarding<Value>(
    _ bar: ProgressBar, _ work: () throws -> Value
  ) throws -> Value {
    install()
    defer { bar.finish() }
    do { return try work() } catch {
      if error is CancellationError || isRequested { throw CommandError.interrupted(nil) }
      throw error
    }
  }

  /// Calls `stop`, on a thread of its own, at the first SIGTERM or SIGINT; the second ends the process
  /// at once, as a shell reports a process that the signal ended.
  ///
  /// - Throws: `EventLoopError` if the signals cannot be watched.
  package static func onSignal(_ stop: @escaping @Sendable () -> Void) throws {
    let signals = try LoopThread(name: "signals")
    let watched = Handover<Result<Void, EventLoopError>>()
    signals.remote.post { loop in
      var isStopping = false
      do throws(EventLoopError) {
        for signal in [SIGTERM, SIGINT] {
          _ = try SignalWatcher(loop: loop, signal: signal) {
            if isStopping { _exit(128 + signal) }
            isStopping = true
            stop()
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
