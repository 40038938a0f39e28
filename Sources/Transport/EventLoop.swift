import CLibUV
import Glibc

/// libuv's loop, confined to the thread that made it.
///
/// It is deliberately not Sendable: the compiler then refuses to let it, or anything that holds it,
/// reach another thread. Other threads hold its `remote`.
public final class EventLoop {
  let raw: UnsafeMutablePointer<uv_loop_t>
  /// How other threads reach this loop.
  public let remote: LoopRemote
  private var isInitialized = false
  /// What streams that drain read into; the bytes are never looked at.
  let discarded = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 64)

  /// A loop for the calling thread.
  public init() throws(EventLoopError) {
    let loop = UnsafeMutablePointer<uv_loop_t>.allocate(capacity: 1)
    let wakeUp = UnsafeMutablePointer<uv_async_t>.allocate(capacity: 1)
    raw = loop
    remote = LoopRemote(wakeUp: wakeUp)
    try check(uv_loop_init(loop), "start an event loop")
    isInitialized = true
    try check(
      uv_async_init(loop, wakeUp) { handle in
        guard let data = handle?.pointee.data else { return }
        Unmanaged<EventLoop>.fromOpaque(data).takeUnretainedValue().runJobs()
      }, "start an event loop")
    wakeUp.pointee.data = Unmanaged.passUnretained(self).toOpaque()
  }

  deinit {
    if isInitialized {
      let code = uv_loop_close(raw)
      precondition(code == 0, "an event loop was released before shutdown() and run() had ended")
    }
    discarded.deallocate()
    remote.deallocateWakeUp()
    raw.deallocate()
  }

  /// Runs until `shutdown()` has closed everything.
  public func run() {
    withoutBrokenPipeSignal { _ = uv_run(raw, UV_RUN_DEFAULT) }
  }

  /// Runs the jobs posted so far, takes no more, and closes every handle; `run()` then returns.
  public func shutdown() {
    for job in remote.close() { job(self) }
    uv_walk(
      raw,
      { handle, _ in
        guard let handle, uv_is_closing(handle) == 0 else { return }
        if handle.pointee.type == UV_ASYNC {
          uv_close(handle, nil)
        } else if let data = handle.pointee.data {
          Unmanaged<LoopHandle>.fromOpaque(data).takeUnretainedValue().close()
        }
      }, nil)
  }

  private func runJobs() {
    // Wake-ups coalesce: each one must empty the list.
    for job in remote.takeJobs() { job(self) }
  }
}

/// Runs `body` with SIGPIPE blocked on this thread: libuv writes without MSG_NOSIGNAL, and a peer that
/// closes abruptly would end the process. The kernel sends that signal to the thread that writes, so
/// nothing changes for other threads; what arrived meanwhile is taken before the mask is restored.
private func withoutBrokenPipeSignal(_ body: () -> Void) {
  var brokenPipe = sigset_t()
  var before = sigset_t()
  sigemptyset(&brokenPipe)
  sigaddset(&brokenPipe, SIGPIPE)
  pthread_sigmask(SIG_BLOCK, &brokenPipe, &before)
  body()
  guard sigismember(&before, SIGPIPE) == 0 else { return }
  var noWait = timespec()
  while sigtimedwait(&brokenPipe, nil, &noWait) == SIGPIPE {}
  pthread_sigmask(SIG_SETMASK, &before, nil)
}
