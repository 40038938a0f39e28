import CLibUV

/// A failed call of the operating system, and what it was for.
public struct EventLoopError: Error, Sendable, Equatable, CustomStringConvertible {
  /// What was tried, such as `listen on 127.0.0.1:80`.
  public let operation: String
  /// What the system said, such as `address already in use`.
  public let reason: String

  /// An error with a reason of our own.
  public init(operation: String, reason: String) {
    self.operation = operation
    self.reason = reason
  }

  /// An error from libuv's code, which is a negated errno.
  init(operation: String, code: Int32) {
    self.init(operation: operation, reason: String(cString: uv_strerror(code)))
  }

  /// `operation: reason`.
  public var description: String { "\(operation): \(reason)" }
}

/// Throws if a libuv call failed.
func check(_ code: Int32, _ operation: @autoclosure () -> String) throws(EventLoopError) {
  if code < 0 { throw EventLoopError(operation: operation(), code: code) }
}
