import Glibc
import Synchronization

/// A thread of its own, outside Swift's cooperative pool, so that it may block or compute for long.
public final class WorkerThread: Sendable {
  private let handle = Mutex<pthread_t?>(nil)

  private final class Start {
    let body: @Sendable () -> Void
    init(body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// Starts a thread that runs `body`; `name` is for the error.
  public init(name: String, _ body: @escaping @Sendable () -> Void) throws(EventLoopError) {
    let start = Unmanaged.passRetained(Start(body: body))
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { context in
        guard let context else { return nil }
        Unmanaged<Start>.fromOpaque(context).takeRetainedValue().body()
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
