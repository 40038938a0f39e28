internal import Glibc
internal import Synchronization

/// The system refused to start a thread.
package struct ThreadError: Error, CustomStringConvertible {
  /// Name of the thread.
  package let name: String
  /// The system's own words, such as `Resource temporarily unavailable`.
  package let reason: String

  /// `start thread name: reason`.
  package var description: String { "start thread \(name): \(reason)" }
}

/// A thread of its own, outside Swift's cooperative pool, so that it may block or compute for long.
package final class WorkerThread: Sendable {
  private let handle = Mutex<pthread_t?>(nil)

  private final class Start {
    let niceness: Int32
    let body: @Sendable () -> Void
    init(niceness: Int32, body: @escaping @Sendable () -> Void) {
      self.niceness = niceness
      self.body = body
    }
  }

  /// Starts a thread that runs `body`; `name` is for the error.
  ///
  /// - Parameter niceness: as of setpriority(2); above 0 the thread gives way to others.
  package init(
    name: String, niceness: Int32 = 0, _ body: @escaping @Sendable () -> Void
  ) throws(ThreadError) {
    let start = Unmanaged.passRetained(Start(niceness: niceness, body: body))
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { context in
        guard let context else { return nil }
        let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        // On Linux, of this thread alone. If it is refused, the thread is as urgent as the others.
        if start.niceness > 0 { setpriority(__priority_which_t(0), 0, start.niceness) }
        start.body()
        return nil
      }, start.toOpaque())
    guard code == 0 else {
      start.release()
      throw ThreadError(name: name, reason: String(cString: strerror(code)))
    }
    handle.withLock { $0 = thread }
  }

  /// Waits for the thread to end; only the first call waits.
  package func join() {
    let thread = handle.withLock { handle in
      defer { handle = nil }
      return handle
    }
    if let thread { pthread_join(thread, nil) }
  }

  deinit {
    // Nobody will wait, so the system tidies up when the thread ends.
    let thread = handle.withLock { $0 }
    if let thread { pthread_detach(thread) }
  }
}
