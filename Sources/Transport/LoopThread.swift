internal import GranuleThreads

/// An event loop on a thread of its own.
public final class LoopThread: Sendable {
  /// How to reach the loop.
  public let remote: LoopRemote
  private let thread: WorkerThread

  /// Starts a thread with an event loop; it runs until `stop()`.
  public init(name: String) throws(EventLoopError) {
    let started = Handover<Result<LoopRemote, EventLoopError>>()
    do throws(ThreadError) {
      thread = try WorkerThread(name: name) {
        do throws(EventLoopError) {
          let loop = try EventLoop()
          started.give(.success(loop.remote))
          loop.run()
        } catch {
          started.give(.failure(error))
        }
      }
    } catch {
      throw EventLoopError(operation: "start thread \(error.name)", reason: error.reason)
    }
    remote = try started.take().get()
  }

  /// Shuts the loop down without waiting for it.
  public func stop() { remote.post { $0.shutdown() } }

  /// Waits until the loop has ended; not to be called on its own thread.
  public func join() { thread.join() }
}
