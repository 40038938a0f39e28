internal import Glibc
internal import GranuleErrors
internal import GranuleFiles
package import GranuleLanguageModel
internal import GranuleTensors

extension TextSequences {
  /// Number of bytes up to which text is tokenised whole to be sampled; of longer text, stretches are.
  package static let wholeBytes = 32 << 20
  /// Number of bytes within which a stretch looks for the start of a line.
  private static let lineBytes = 4096
  /// Bytes of a stretch for each token that is needed, at first and at most: few texts come to
  /// more than 5.
  private static let tokenBytes = (first: 8, most: 64)

  /// Sequences at even distances over all the text, a function of nothing but text and parameters.
  ///
  /// - Parameters:
  ///   - context: tokens a sequence.
  ///   - tokens: the most tokens in all.
  ///   - wholeBytes: see there.
  /// - Throws: `TrainingError` or `FileError` if a file cannot be read, or there is no text.
  package static func sample(
    _ paths: [String], tokenizer: Tokenizer, context: Int, tokens limit: Int,
    wholeBytes: Int = wholeBytes
  ) throws -> [[Int32]] {
    let files = try files(paths)
    if files.reduce(0, { $0 + $1.bytes }) > wholeBytes {
      return try stretches(
        of: files, tokenizer: tokenizer, context: context, tokens: limit)
    }
    let all = try read(paths, tokenizer: tokenizer, context: context, tokens: .max)
    let total = all.reduce(0) { $0 + $1.count }
    guard total > limit else { return all }
    let count = max(1, (all.count * limit + total - 1) / total)
    var left = limit
    var sequences: [[Int32]] = []
    for number in 0..<count where left >= 2 {
      sequences.append(Array(all[number * all.count / count].prefix(left)))
      left -= sequences[sequences.count - 1].count
    }
    return sequences
  }

  /// A sequence of fewer tokens has none that can be attributed: the first is not replaced, the last
  /// predicts nothing.
  package static let attributableTokens = 3

  /// That there is text to attribute on, found without tokenising much of it.
  ///
  /// - Throws: as `read`, and `TrainingError` if all that was looked at is too short.
  package static func requireAttributableText(
    _ paths: [String], tokenizer: Tokenizer, context: Int
  ) throws {
    let isLong = try files(paths).reduce(0) { $0 + $1.bytes } > wholeBytes
    func hasSome(_ sequences: [[Int32]]) -> Bool {
      sequences.contains { $0.count >= attributableTokens }
    }
    let isThere =
      isLong
      ? hasSome(try sample(paths, tokenizer: tokenizer, context: context, tokens: 64 * context))
      : try [context, .max].contains {
        hasSome(try read(paths, tokenizer: tokenizer, context: context, tokens: $0))
      }
    guard isThere else {
      throw TrainingError(
        .unusable(input: "text"),
        "\(paths.joined(separator: ", ")): there is no text of \(attributableTokens) tokens to "
          + "attribute on")
    }
  }

  private typealias File = (path: String, bytes: Int)

  private static func files(_ paths: [String]) throws -> [File] {
    try HarvestConfiguration.textFiles(paths).map { path in
      var status = stat()
      guard stat(path, &status) == 0 else {
        throw FileError(file: path, fault: String(cString: strerror(errno)))
      }
      return (path, Int(status.st_size))
    }
  }

  private static func stretches(
    of files: [File], tokenizer: Tokenizer, context: Int, tokens limit: Int
  ) throws -> [[Int32]] {
    try TrainingError.require(context >= 2, "context", context, "at least 2")
    let beginning = tokenizer.beginningToken.map { [$0] } ?? []
    let total = files.reduce(0) { $0 + $1.bytes }
    let count = max(1, (limit + context - 1) / context)
    var sequences: [[Int32]] = []
    var left = limit
    var (file, fileStart) = (0, 0)
    for number in 0..<count where left >= 2 {
      // As a share first: the product of both may be more than 63 bits hold.
      let place = total / count * number + total % count * number / count
      while place >= fileStart + files[file].bytes {
        fileStart += files[file].bytes
        file += 1
      }
      let tokens = try stretch(
        of: files[file], at: place - fileStart, tokens: context - beginning.count,
        tokenizer: tokenizer)
      let sequence = (beginning + tokens).prefix(left)
      guard sequence.count >= 2 else { continue }
      sequences.append(Array(sequence))
      left -= sequence.count
    }
    guard !sequences.isEmpty else {
      throw TrainingError(
        .unusable(input: "text"),
        "\(files[0].path) and \(files.count - 1) more: there is no text of two tokens")
    }
    return sequences
  }

  /// At most `count` tokens from the start of the next line on, or of the next word if lines are long.
  private static func stretch(
    of file: File, at offset: Int, tokens count: Int, tokenizer: Tokenizer
  ) throws(FileError) -> ArraySlice<Int32> {
    var bytesPerToken = tokenBytes.first
    while true {
      let wanted = lineBytes + bytesPerToken * count
      // The byte before tells whether a line begins here.
      let bytes = try bytes(of: file.path, from: max(offset - 1, 0), count: wanted)
      let text = bytes.dropFirst(offset > 0 ? lineStart(bytes) : 0)
      let tokens = Array(text).withUnsafeBytes { tokenizer.encode($0) }
      let isWhole = bytes.count < wanted || bytesPerToken >= tokenBytes.most
      // More than are needed, or the last might be half a word.
      if tokens.count > count || isWhole { return tokens.prefix(count) }
      bytesPerToken *= 2
    }
  }

  private static func lineStart(_ bytes: [UInt8]) -> Int {
    let near = bytes.prefix(lineBytes)
    if let newline = near.firstIndex(of: UInt8(ascii: "\n")) { return newline + 1 }
    if let space = near.firstIndex(of: UInt8(ascii: " ")) { return space }
    // Not within a character.
    return near.firstIndex { $0 & 0xC0 != 0x80 } ?? 0
  }

  private static func bytes(
    of path: String, from offset: Int, count: Int
  ) throws(FileError) -> [UInt8] {
    guard let file = fopen(path, "re") else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: count)
    guard fseeko(file, offset, SEEK_SET) == 0 else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    let got = fread(&bytes, 1, count, file)
    guard got == count || ferror(file) == 0 else {
      throw FileError(file: path, fault: "cannot be read")
    }
    bytes.removeLast(count - got)
    return bytes
  }
}
