/// How a request failed; the numbers are gRPC's.
public enum ErrorCode: UInt32, Sendable, CaseIterable, CustomStringConvertible {
  /// The request was cancelled, by `cancel` or by the end of its connection.
  case cancelled = 1
  /// A field of the request is wrong in itself.
  case invalidArgument = 3
  /// The request's `timeout_ms` ran out before it was computed.
  case deadlineExceeded = 4
  /// No such model, or no such version of it.
  case notFound = 5
  /// Administration was asked for on an address that does not offer it.
  case permissionDenied = 7
  /// The request, or its largest possible response, is beyond a limit.
  case resourceExhausted = 8
  /// The request is well-formed, but the model is not in a state that allows it.
  case failedPrecondition = 9
  /// This server does not offer what was asked for.
  case unimplemented = 12
  /// A fault of the server.
  case `internal` = 13
  /// The server has no room now; `retryAfterMilliseconds` says when to try again.
  case unavailable = 14

  /// The code's name on the wire, such as `INVALID_ARGUMENT`.
  public var description: String {
    switch self {
    case .cancelled: "CANCELLED"
    case .invalidArgument: "INVALID_ARGUMENT"
    case .deadlineExceeded: "DEADLINE_EXCEEDED"
    case .notFound: "NOT_FOUND"
    case .permissionDenied: "PERMISSION_DENIED"
    case .resourceExhausted: "RESOURCE_EXHAUSTED"
    case .failedPrecondition: "FAILED_PRECONDITION"
    case .unimplemented: "UNIMPLEMENTED"
    case .internal: "INTERNAL"
    case .unavailable: "UNAVAILABLE"
    }
  }
}

/// What a server answers in place of a result.
public struct ServerError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The kind of failure.
  public var code: ErrorCode
  /// Which field, which limit, and what to do.
  public var message: String
  /// When to try again, in milliseconds; 0 if trying again does not help.
  public var retryAfterMilliseconds: UInt32

  /// An error of kind `code`.
  public init(_ code: ErrorCode, _ message: String, retryAfterMilliseconds: UInt32 = 0) {
    self.code = code
    self.message = message
    self.retryAfterMilliseconds = retryAfterMilliseconds
  }

  /// The code's name and the message.
  public var description: String {
    retryAfterMilliseconds == 0
      ? "\(code): \(message)" : "\(code): \(message) (try again in \(retryAfterMilliseconds) ms)"
  }
}
