import CLibUV

/// Runs an action on the loop's thread whenever the process receives a signal.
public final class SignalWatcher: LoopHandle {
  private var action: (() -> Void)?

  /// Watches for `signal`, such as SIGTERM.
  public init(loop: EventLoop, signal: Int32, _ action: @escaping () -> Void)
    throws(EventLoopError)
  {
    self.action = action
    super.init(loop: loop, byteCount: MemoryLayout<uv_signal_t>.size)
    try check(uv_signal_init(loop.raw, cast(to: uv_signal_t.self)), "watch for signal \(signal)")
    didInitialize()
    let code = uv_signal_start(
      cast(to: uv_signal_t.self),
      { handle, _ in owner(of: handle, as: SignalWatcher.self)?.action?() }, signal)
    if code < 0 { close() }
    try check(code, "watch for signal \(signal)")
  }

  override func didClose() { action = nil }
}
