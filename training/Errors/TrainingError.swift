/// Why training or evaluating cannot go on.
public struct TrainingError: Error, CustomStringConvertible, Sendable {
  /// What is wrong, where, and what to do.
  public let description: String

  /// An error with its whole message.
  public init(_ description: String) { self.description = description }
}
