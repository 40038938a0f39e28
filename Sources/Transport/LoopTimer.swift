import CLibUV

/// Runs an action later, once or again and again.
public final class LoopTimer: LoopHandle {
  private var action: (() -> Void)?

  /// A timer that has not been started.
  public init(loop: EventLoop) {
    super.init(loop: loop, byteCount: MemoryLayout<uv_timer_t>.size)
    let code = uv_timer_init(loop.raw, cast(to: uv_timer_t.self))
    precondition(code == 0, "uv_timer_init cannot fail")
    didInitialize()
  }

  /// Runs `action` after `delay`, and then every `interval` if there is one; a start before is
  /// forgotten.
  public func start(
    after delay: Duration, every interval: Duration? = nil, _ action: @escaping () -> Void
  ) {
    guard isOpen else { return }
    self.action = action
    uv_update_time(loop.raw)
    uv_timer_start(
      cast(to: uv_timer_t.self),
      { handle in owner(of: handle, as: LoopTimer.self)?.action?() },
      delay.milliseconds, interval?.milliseconds ?? 0)
  }

  override func didClose() { action = nil }
}

extension Duration {
  /// Whole milliseconds, rounded up so that a wait is never short, and never below 0.
  fileprivate var milliseconds: UInt64 {
    let (seconds, attoseconds) = components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    let (whole, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1000)
    let rest = UInt64((attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    return overflow ? UInt64.max / 2 : min(whole + rest, UInt64.max / 2)
  }
}
