import GranuleWire

/// The limits of a client.
public struct ClientOptions: Sendable {
  /// How long connecting may take.
  public var connectTimeout: Duration = .seconds(5)
  /// The longest frame accepted from the server, in bytes.
  public var frameBytesMax = FrameDecoder.frameBytesMaxDefault
  /// Memory that one unpacked response may take, in bytes.
  public var responseMemoryBytesMax = 2 * FrameDecoder.frameBytesMaxDefault

  /// The defaults.
  public init() {}
}
