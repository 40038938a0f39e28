/// How a text is cut into words, within which a byte-pair tokenizer merges; by the names that GGUF
/// files give it.
package enum PreTokenizer: String, Sendable, CaseIterable {
  /// GPT-2's pattern: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
  case gpt2 = "gpt-2"
  /// Every number character is cut out first, as a word of its own; GPT-2's pattern applies to each
  /// stretch between them, as if the text ended there.
  case smollm

  /// Calls `body` with each word in order; together they are the text.
  package func forEachWord(
    of text: UnsafeRawBufferPointer, _ body: (_ word: Range<Int>) -> Void
  ) {
    var start = 0
    while start < text.count {
      let end = wordEnd(from: start, of: text)
      body(start..<end)
      start = end
    }
  }

  private func wordEnd(from start: Int, of text: UnsafeRawBufferPointer) -> Int {
    let cutsNumbers = self == .smollm
    if text[start] == UInt8(ascii: "'"), let length = Self.contraction(at: start, of: text) {
      return start + length
    }
    // One space may begin a word of letters, of numbers or of others.
    var position = start
    if text[start] == UInt8(ascii: " "), start + 1 < text.count { position += 1 }
    var (kind, length) = CharacterClass.at(position, of: text)
    let isCut = cutsNumbers && kind == .number
    if kind != .whitespace, !isCut || position == start {
      position += length
      if isCut { return position }
      while position < text.count {
        let (next, length) = CharacterClass.at(position, of: text)
        guard next == kind else { break }
        position += length
      }
      return position
    }

    // White space: all of it at the text's end, else all but the last character, which may begin
    // the next word, unless it is the only one.
    position = start
    var last = start
    while position < text.count {
      (kind, length) = CharacterClass.at(position, of: text)
      guard kind == .whitespace else {
        let endsHere = cutsNumbers && kind == .number
        return endsHere || last == start ? position : last
      }
      last = position
      position += length
    }
    return position
  }

  /// Length of the English contraction at `offset`, if there is an apostrophe.
  private static func contraction(at offset: Int, of text: UnsafeRawBufferPointer) -> Int? {
    guard offset + 1 < text.count else { return nil }
    let first = text[offset + 1]
    switch first {
    case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return 2
    case UInt8(ascii: "r"), UInt8(ascii: "v"), UInt8(ascii: "l"):
      let second = first == UInt8(ascii: "l") ? UInt8(ascii: "l") : UInt8(ascii: "e")
      return offset + 2 < text.count && text[offset + 2] == second ? 3 : nil
    default: return nil
    }
  }
}
