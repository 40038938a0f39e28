import Foundation
import Synchronization

/// Ctrl-C and SIGTERM, for work that ends at a point of its own choosing.
enum Interruption {
  /// Exit code of work that was interrupted, as shells use it for SIGINT.
  static let exitCode: Int32 = 130

  private static let wasRequested = Atomic(false)

  /// Whether the user has asked to stop.
  static var isRequested: Bool { wasRequested.load(ordering: .relaxed) }

  /// From now on the first signal asks work to stop; the second ends the process at once.
  static func install() {
    for number in [SIGINT, SIGTERM] {
      signal(number) { _ in
        // Only what is safe in a signal handler: a lock-free atomic and _exit.
        if Interruption.wasRequested.exchange(true, ordering: .relaxed) {
          _exit(Interruption.exitCode)
        }
      }
    }
  }
}
