/// Why a language model cannot do what it was asked to.
public enum LanguageModelError: Error, CustomStringConvertible, Sendable, Equatable {
  /// A sequence is empty, or longer than the model's context.
  case sequenceLength(sequence: Int, tokens: Int, limit: Int)
  /// A sequence has a token that the model's vocabulary lacks.
  case unknownToken(Int32, sequence: Int, vocabulary: Int)

  /// Which sequence it is, what it has, and what the model takes.
  public var description: String {
    switch self {
    case .sequenceLength(let sequence, let tokens, let limit):
      "sequence \(sequence) has \(tokens) tokens, the model takes 1 … \(limit)"
    case .unknownToken(let token, let sequence, let vocabulary):
      "sequence \(sequence) has token \(token), the model's are 0 … \(vocabulary - 1)"
    }
  }
}
