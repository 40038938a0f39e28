/// Lets a value of one loop's thread travel through other threads, unopened.
public struct LoopBound<Value>: @unchecked Sendable {
  // Safe to share: the value is handed out on its loop's thread only, which `get` checks. The
  // reference itself may be released elsewhere, so what it holds must not be the last owner of an
  // open handle; libuv's handles own themselves.
  private let value: Value
  private let remote: LoopRemote

  /// Binds `value` to `loop`, whose thread is the calling one.
  public init(_ value: Value, to loop: EventLoop) {
    self.value = value
    remote = loop.remote
  }

  /// The value, on its loop's thread.
  public func get(on loop: EventLoop) -> Value {
    precondition(loop.remote === remote, "a value was opened on another event loop than its own")
    return value
  }
}
