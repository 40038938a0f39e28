internal import GranuleErrors
internal import GranuleFiles
internal import GranuleLanguageModel

/// The text of a harvest, cut into sequences in an order that depends on its parameters alone.
struct HarvestText {
  /// A stretch of a file's tokens.
  struct Sequence {
    var file: Int
    var range: Range<Int>
    /// Activations that it gives, at most.
    var rows: Int
  }

  /// Number of text files; with a number of tokens stated the last ones may not be needed.
  let fileCount: Int
  let sequences: [Sequence]
  /// Activations of all sequences.
  let total: Int
  /// The files with their digests, for the manifest.
  let json: JSONValue
  private let fileTokens: [[Int32]]
  private let tokenizer: Tokenizer
  private let keepsFirstPosition: Bool

  /// Reads and tokenises the files.
  ///
  /// - Throws: `TrainingError` or `FileError` if one cannot be read, or all give no activation.
  init(_ configuration: HarvestConfiguration, tokenizer: Tokenizer) throws {
    self.tokenizer = tokenizer
    keepsFirstPosition = configuration.keepsFirstPosition
    let paths = try configuration.textFiles()
    fileCount = paths.count
    let limit = configuration.tokens ?? .max
    // A beginning token takes a place of each sequence.
    let length = configuration.context - (tokenizer.beginningToken == nil ? 0 : 1)
    var texts: [JSONValue] = []
    var fileTokens: [[Int32]] = []
    var sequences: [Sequence] = []
    var total = 0
    for (number, path) in paths.enumerated() {
      let text = try FileBytes.read(path)
      texts.append(
        .object([
          .init("file", .string(path)), .init("bytes", JSONValue(text.bytes.count)),
          .init("sha256", .string(Digest.sha256(text))),
        ]))
      guard total < limit else { continue }
      let tokens = tokenizer.encode(text.bytes)
      fileTokens.append(tokens)
      for start in stride(from: 0, to: tokens.count, by: length) where total < limit {
        let range = start..<min(start + length, tokens.count)
        let all = Self.kept(
          Self.whole(tokens[range], tokenizer), tokenizer, keepsFirst: keepsFirstPosition)
        let rows = min(all.count, limit - total)
        guard rows > 0 else { continue }
        sequences.append(Sequence(file: number, range: range, rows: rows))
        total += rows
      }
    }
    guard total > 0 else {
      throw TrainingError(.unusable(input: "text"), "the text gives no activation")
    }
    self.fileTokens = fileTokens
    self.sequences = sequences
    self.total = total
    json = .array(texts)
  }

  /// A sequence's tokens, the beginning token with them.
  func tokens(of sequence: Sequence) -> [Int32] {
    Self.whole(fileTokens[sequence.file][sequence.range], tokenizer)
  }

  /// The tokens of the sequences from `first` on that go through the model together: at most `limit`
  /// tokens, but at least one sequence.
  func batch(from first: Int, tokens limit: Int) -> [[Int32]] {
    var batch: [[Int32]] = []
    var count = 0
    for sequence in sequences[first...] {
      let tokens = tokens(of: sequence)
      guard batch.isEmpty || count + tokens.count <= limit else { break }
      count += tokens.count
      batch.append(tokens)
    }
    return batch
  }

  /// Positions of a sequence whose activations are written.
  func kept(_ tokens: [Int32], of sequence: Sequence) -> ArraySlice<Int> {
    Self.kept(tokens, tokenizer, keepsFirst: keepsFirstPosition).prefix(sequence.rows)
  }

  private static func kept(
    _ tokens: [Int32], _ tokenizer: Tokenizer, keepsFirst: Bool
  ) -> [Int] {
    if keepsFirst { return Array(tokens.indices) }
    return tokens.indices.dropFirst().filter { !tokenizer.endTokens.contains(tokens[$0]) }
  }

  private static func whole(_ tokens: ArraySlice<Int32>, _ tokenizer: Tokenizer) -> [Int32] {
    (tokenizer.beginningToken.map { [$0] } ?? []) + tokens
  }
}
