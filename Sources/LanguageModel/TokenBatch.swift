/// Sequences of tokens that go through the model together, each from position 0 on.
///
/// What the model makes of a batch has a row for each token, sequence by sequence.
public struct TokenBatch: Sendable {
  /// All sequences' tokens: [rows].
  public let tokens: [Int32]
  /// The row at which each sequence begins, and the end of the last: [sequences + 1].
  public let starts: [Int]
  /// Each row's position in its sequence: [rows].
  let positions: [Int]

  /// Number of tokens.
  public var rows: Int { tokens.count }
  /// Number of sequences.
  public var sequences: Int { starts.count - 1 }
  /// Number of tokens in the longest sequence.
  public var longest: Int { zip(starts, starts.dropFirst()).map { $1 - $0 }.max() ?? 0 }
  /// Rows that predict another: every row but each sequence's last, ascending.
  public var predictingRows: [Int] {
    zip(starts, starts.dropFirst()).flatMap { $0..<$1 - 1 }
  }

  /// Sequences for a model of the given shape.
  ///
  /// - Throws: `LanguageModelError` if a sequence is empty or longer than the model's context, or
  ///   a token is beyond its vocabulary.
  public init(
    _ sequences: [[Int32]], for configuration: LlamaConfiguration
  ) throws(LanguageModelError) {
    var starts = [0]
    for (number, sequence) in sequences.enumerated() {
      guard (1...configuration.contextLength).contains(sequence.count) else {
        throw .sequenceLength(
          sequence: number, tokens: sequence.count, limit: configuration.contextLength)
      }
      if let token = sequence.first(where: { !(0..<configuration.vocabulary).contains(Int($0)) }) {
        throw .unknownToken(token, sequence: number, vocabulary: configuration.vocabulary)
      }
      starts.append(starts[number] + sequence.count)
    }
    self.init(tokens: sequences.flatMap { $0 }, starts: starts)
  }

  /// Rows at which a dictionary's reconstruction may stand in for the residual stream: position 0
  /// and end-of-text tokens are attention sinks, whose norms are a hundred times those of other
  /// tokens, and pass through untouched.
  public func replaceableRows(endTokens: Set<Int32>) -> [Int] {
    zip(starts, starts.dropFirst()).flatMap { start, end in
      (start + 1..<end).filter { !endTokens.contains(tokens[$0]) }
    }
  }

  /// Some of the sequences.
  func selecting(_ range: Range<Int>) -> TokenBatch {
    let rows = starts[range.lowerBound]..<starts[range.upperBound]
    return TokenBatch(
      tokens: Array(tokens[rows]),
      starts: starts[range.lowerBound...range.upperBound].map { $0 - rows.lowerBound })
  }

  private init(tokens: [Int32], starts: [Int]) {
    self.tokens = tokens
    self.starts = starts
    positions = zip(starts, starts.dropFirst()).flatMap { 0..<$1 - $0 }
  }
}
