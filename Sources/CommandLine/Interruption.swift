import Glibc
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
}
