/// Where an engine sends what it makes of a call: the other side of a protocol, or of an embedded
/// caller.
///
/// The engine packs and sends on the thread that computed, a call's stages one after another. A sink
/// must not wait for anything there.
public protocol ReplySink: Sendable {
  /// The longest reply that can be sent, in bytes.
  var replyBytesMax: Int { get }
  /// The most bytes that a reply of `size` takes once it is packed.
  func bytesMax(of size: ReplySize) -> Int
  /// Makes a reply ready to be sent.
  ///
  /// - Parameter isLast: no reply to the same call comes after this one.
  /// - Throws: why it cannot be sent; the engine then ends the call with that error.
  func pack(_ reply: Reply, isLast: Bool) throws(ServerError) -> PackedReply
  /// Makes the error that ends a call ready to be sent.
  func pack(_ error: ServerError) -> PackedReply
}

/// A reply that is ready; if the call was cancelled meanwhile it is dropped unsent.
public struct PackedReply: Sendable {
  /// Sends it; called at most once.
  public let send: @Sendable () -> Void

  /// A reply that `send` sends.
  public init(send: @escaping @Sendable () -> Void) { self.send = send }
}

/// How large a reply can become.
public struct ReplySize: Sendable, Equatable {
  /// Tokens of the call.
  public var tokens: Int
  /// The most active latents of a token; nil if the reply carries no codes.
  public var activeLatents: Int?
  /// Whether the reply carries a squared error for each token.
  public var hasErrors: Bool
  /// Width of the reconstruction; nil if the reply carries none.
  public var reconstructionWidth: Int?

  /// A size.
  public init(tokens: Int, activeLatents: Int?, hasErrors: Bool, reconstructionWidth: Int?) {
    self.tokens = tokens
    self.activeLatents = activeLatents
    self.hasErrors = hasErrors
    self.reconstructionWidth = reconstructionWidth
  }
}

/// A sink for a caller in the same process: replies stay values, nothing is packed.
public struct ReplyHandler: ReplySink {
  /// Takes a reply or the error that ends the call; `isLast` on exactly one of them.
  public typealias Receive = @Sendable (_ reply: Result<Reply, ServerError>, _ isLast: Bool) -> Void
  private let receive: Receive

  /// A sink that calls `receive` on the engine's threads.
  public init(_ receive: @escaping Receive) { self.receive = receive }

  /// No reply is too long.
  public var replyBytesMax: Int { .max }

  /// The bytes of the values.
  public func bytesMax(of size: ReplySize) -> Int {
    let codes = size.activeLatents.map { 4 * (size.tokens + 1) + 8 * size.tokens * $0 } ?? 0
    return codes + (size.hasErrors ? 4 * size.tokens : 0)
      + 4 * size.tokens * (size.reconstructionWidth ?? 0)
  }

  /// Hands the reply on as it is.
  public func pack(_ reply: Reply, isLast: Bool) -> PackedReply {
    PackedReply { [receive] in receive(.success(reply), isLast) }
  }

  /// Hands the error on as it is.
  public func pack(_ error: ServerError) -> PackedReply {
    PackedReply { [receive] in receive(.failure(error), true) }
  }
}
