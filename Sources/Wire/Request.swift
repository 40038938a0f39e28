/// What a client sends.
public struct Request: Sendable {
  /// Chosen by the client; not 0, and unique among its requests in flight on a connection.
  public var id: UInt64
  /// How long the answer is of use, in milliseconds from the frame's arrival; 0 is for ever.
  public var timeoutMilliseconds: UInt32
  /// What is asked.
  public var body: Body

  /// A request.
  public init(id: UInt64, timeoutMilliseconds: UInt32 = 0, body: Body) {
    self.id = id
    self.timeoutMilliseconds = timeoutMilliseconds
    self.body = body
  }

  /// A request that makes a call.
  public init(id: UInt64, timeoutMilliseconds: UInt32 = 0, call: Call) {
    self.init(id: id, timeoutMilliseconds: timeoutMilliseconds, body: .call(call))
  }

  /// The kinds of request.
  public enum Body: Sendable {
    /// A call, as any protocol can make it.
    case call(Call)
    /// End the request with this id, of the same connection.
    case cancel(requestID: UInt64)
  }
}
