import Glibc
import Synchronization

/// A thread of its own, outside Swift's cooperative pool, so that it may block or compute for long.
public final class WorkerThread: Sendable {
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
  /// - Parameter niceness: above 0 the thread gives way to others, as setpriority(2) has it.
  public init(
    name: String, niceness: Int32 = 0, _ body: @escaping @Sendable () -> Void
  ) throws(EventLoopError) {
    let start = Unmanaged.passRetained(Start(niceness: niceness, body: body))
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { context in
        guard let context else { return nil }
        let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        // Of this thread alone, on Linux. Where it is refused, the thread is as urgent as others.
        if start.niceness > 0 { setpriority(__priority_which_t(0), 0, start.niceness) }
        start.body()
        return nil
      }, start.toOpaque())
    guard code == 0 else {
      start.release()
      throw EventLoopError(
        operation: "start thread \(name)", reason: String(cString: strerror(code)))
    }
    handle.withLock { $0 = thread }
  }

  /// Waits for the thread to end; only the first call waits.
  public func join() {
    let thread = handle.withLock { handle in
      defer { handle = nil }
      return handle
    }
    if let thread { pthread_join(thread, nil) }
  }

  deinit {
    // Nobody will wait: let the system tidy up when the thread ends.
    let thread = handle.withLock { $0 }
    if let thread { pthread_detach(thread) }
  }
}
