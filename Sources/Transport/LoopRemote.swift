import CLibUV
import Synchronization

/// The one part of an event loop that other threads may hold.
public final class LoopRemote: Sendable {
  /// Work for the loop's thread.
  public typealias Job = @Sendable (EventLoop) -> Void

  private struct State {
    var jobs: [Job] = []
    var isOpen = true
  }
  private let state = Mutex(State())
  // Safe to share: uv_async_send may be called from any thread, and is called under the lock and
  // only while the loop is open; the memory is freed after that.
  nonisolated(unsafe) private let wakeUp: UnsafeMutablePointer<uv_async_t>

  init(wakeUp: UnsafeMutablePointer<uv_async_t>) { self.wakeUp = wakeUp }

  /// Runs `job` on the loop's thread, after those posted before; false if the loop has been shut
  /// down.
  @discardableResult
  public func post(_ job: @escaping Job) -> Bool {
    state.withLock { state in
      guard state.isOpen else { return false }
      state.jobs.append(job)
      // One wake-up is on its way already if a job was waiting.
      if state.jobs.count == 1 { uv_async_send(wakeUp) }
      return true
    }
  }

  func takeJobs() -> [Job] {
    state.withLock { state in
      let jobs = state.jobs
      state.jobs = []
      return jobs
    }
  }

  func close() -> [Job] {
    state.withLock { state in
      state.isOpen = false
      let jobs = state.jobs
      state.jobs = []
      return jobs
    }
  }

  func deallocateWakeUp() { wakeUp.deallocate() }
}
