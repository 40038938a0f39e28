internal import GranuleErrors
internal import GranuleFiles
public import GranuleLanguageModel
internal import GranuleTensors

/// Text as sequences of tokens for a language model.
public enum TextSequences {
  /// Cuts files into sequences, none of which spans two files.
  ///
  /// - Parameters:
  ///   - paths: text files, or folders, which stand for the `.txt`, `.md` and `.rst` files in them.
  ///   - context: tokens a sequence; a file's last may be shorter, down to 2.
  ///   - tokens: number of tokens after which to stop; the last sequence is cut to fit.
  /// - Throws: `TrainingError` or `FileError` if a file cannot be read, or there is no text.
  public static func read(
    _ paths: [String], tokenizer: Tokenizer, context: Int, tokens limit: Int
  ) throws -> [[Int32]] {
    try TrainingError.require(context >= 2, "context", context, "at least 2")
    let beginning = tokenizer.beginningToken.map { [$0] } ?? []
    let length = context - beginning.count
    var sequences: [[Int32]] = []
    var total = 0
    for path in try HarvestConfiguration.textFiles(paths) where total < limit {
      let file = try FileBytes.read(path)
      let tokens = tokenizer.encode(file.bytes)
      for start in stride(from: 0, to: tokens.count, by: length) where total < limit {
        let sequence = beginning + tokens[start..<min(start + length, tokens.count)]
        // A single token predicts nothing.
        let kept = sequence.prefix(limit - total)
        guard kept.count >= 2 else { continue }
        sequences.append(Array(kept))
        total += kept.count
      }
    }
    guard !sequences.isEmpty else {
      throw TrainingError(
        .unusable(input: "text"), "\(paths.joined(separator: ", ")): there is no text of two tokens"
      )
    }
    return sequences
  }
}
