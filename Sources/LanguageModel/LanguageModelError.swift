/// Why a language model cannot do what it was asked to.
public struct LanguageModelError: Error, CustomStringConvertible, Sendable {
  /// What is wrong, for people.
  public let description: String

  init(_ description: String) { self.description = description }
}
