import Foundation
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("A byte-pair tokenizer")
struct TokenizerTests {
  /// GPT-2's pattern, with white space named as Unicode does.
  static let pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
    + "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+"

  static func matches(_ pattern: String, _ text: String) throws -> [String] {
    let expression = try NSRegularExpression(pattern: pattern)
    let whole = text as NSString
    return expression.matches(in: text, range: NSRange(location: 0, length: whole.length))
      .map { whole.substring(with: $0.range) }
  }

  /// Words by regular expressions: the oracle of the scanner.
  static func referenceWords(_ text: String, _ preTokenizer: PreTokenizer) throws -> [String] {
    switch preTokenizer {
    case .gpt2: try matches(pattern, text)
    case .smollm: try matches("\\p{N}|\\P{N}+", text).flatMap { try matches(pattern, $0) }
    }
  }

  static func randomText(_ generator: inout SeededGenerator) -> String {
    let pieces = [
      " ", " ", "  ", "\n", "\t", "\r\n", "\u{A0}", "\u{3000}", "\u{85}", "\u{B}", "'", "'s", "'ll",
      "'re", "'LL", "'l", "a", "Zebra", "é", "e\u{301}", "ß", "Ж", "你好", "ア", "ع", "ǅ", "ª", "1",
      "42", "٣", "Ⅷ", "½", "²", "𝟙", "𐌰", "!", "?!", "—", "“", "_", "\u{0}", "\u{7F}", "🙂", "👩‍👧",
      "\u{200D}", "\u{FEFF}",
    ]
    return (0..<Int.random(in: 0...24, using: &generator))
      .map { _ in pieces.randomElement(using: &generator) ?? "" }.joined()
  }

  @Test(
    "cuts text into the words that the regular expressions give",
    arguments: [
      PreTokenizer.gpt2, .smollm,
    ])
  func words(preTokenizer: PreTokenizer) throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<3000 {
      let text = Self.randomText(&generator)
      let bytes = Array(text.utf8)
      var words: [String] = []
      bytes.withUnsafeBytes { raw in
        preTokenizer.forEachWord(of: raw) { words.append(String(decoding: raw[$0], as: UTF8.self)) }
      }
      let expected = try Self.referenceWords(text, preTokenizer)
      // Compared as bytes: Swift takes canonically equivalent texts for equal.
      #expect(
        words.map { Array($0.utf8) } == expected.map { Array($0.utf8) },
        "\(text.debugDescription), seed \(seed)")
    }
  }

  /// The character that stands for a byte in vocabularies.
  static func character(_ byte: UInt8) -> String {
    let isItself = (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174
    if isItself { return String(Unicode.Scalar(byte)) }
    let before = (0..<byte).filter {
      !(33...126).contains($0) && !(161...172).contains($0) && $0 < 174
    }
    return String(Unicode.Scalar(UInt16(256 + before.count)) ?? "?")
  }

  static func file(tokens: [String], merges: [String]) -> GGUFWriter {
    GGUFWriter([
      ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string("gpt-2")),
      ("tokenizer.ggml.tokens", .strings(tokens)), ("tokenizer.ggml.merges", .strings(merges)),
    ])
  }

  @Test("applies the merge of lowest rank first, at its leftmost place, as the plain loop does")
  func mergeOrder() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<40 {
      var symbols = ["a", "b", "c"]
      var merges: [(String, String)] = []
      for _ in 0..<12 {
        let pair = (
          symbols.randomElement(using: &generator) ?? "",
          symbols.randomElement(using: &generator) ?? ""
        )
        if merges.contains(where: { $0 == pair }) { continue }
        merges.append(pair)
        if !symbols.contains(pair.0 + pair.1) { symbols.append(pair.0 + pair.1) }
      }
      let writer = Self.file(tokens: symbols, merges: merges.map { "\($0.0) \($0.1)" })
      let tokenizer = try Tokenizer(try gguf(writer.bytes()))
      for _ in 0..<30 {
        let word = (0..<Int.random(in: 1...30, using: &generator))
          .map { _ in ["a", "b", "c"].randomElement(using: &generator) ?? "" }
        var expected = word
        while true {
          let candidates = expected.indices.dropLast().compactMap { left in
            merges.firstIndex { $0 == (expected[left], expected[left + 1]) }.map { ($0, left) }
          }
          guard let (_, left) = candidates.min(by: <) else { break }
          expected.replaceSubrange(left...left + 1, with: [expected[left] + expected[left + 1]])
        }
        let tokens = tokenizer.encode(word.joined())
        #expect(tokens.map { symbols[Int($0)] } == expected, "seed \(seed)")
      }
    }
  }

  @Test("gives any bytes back, whether they are valid UTF-8 or not")
  func inverse() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var generator = SeededGenerator(seed: seed)
    let alphabet = (UInt8.min...UInt8.max).map(Self.character)
    let writer = Self.file(
      tokens: alphabet + ["he", "Ġt", "Ã©"], merges: ["h e", "Ġ t", "Ã ©"])
    let tokenizer = try Tokenizer(try gguf(writer.bytes()))
    #expect(tokenizer.encode("he té") == [257 - 1, 257, 258])
    for _ in 0..<300 {
      let bytes = (0..<Int.random(in: 0...80, using: &generator)).map { _ in
        UInt8.random(in: 0...255, using: &generator)
      }
      let tokens = bytes.withUnsafeBytes { tokenizer.encode($0) }
      #expect(tokenizer.decode(tokens) == bytes, "seed \(seed)")
      let text = Self.randomText(&generator)
      #expect(tokenizer.decode(tokenizer.encode(text)) == Array(text.utf8), "seed \(seed)")
    }
  }

  @Test("drops bytes that have no token, also those within a symbol that has none")
  func missing() throws {
    // The merge of a and b leads to a symbol that is no token: its bytes are given instead.
    let writer = Self.file(tokens: ["a", "b"], merges: ["a b", "ab c"])
    let tokenizer = try Tokenizer(try gguf(writer.bytes()))
    #expect(tokenizer.encode("ab") == [0, 1])
    #expect(tokenizer.encode("abc") == [0, 1])
    #expect(tokenizer.encode("xay") == [0])
    #expect(tokenizer.encode("") == [])
  }

  @Test("takes a word of a million bytes in its stride")
  func longWord() throws {
    var tokens = ["a"]
    var merges: [String] = []
    for _ in 0..<10 {
      let last = tokens[tokens.count - 1]
      merges.append("\(last) \(last)")
      tokens.append(last + last)
    }
    let tokenizer = try Tokenizer(try gguf(Self.file(tokens: tokens, merges: merges).bytes()))
    #expect(
      tokenizer.encode(String(repeating: "a", count: 1 << 20)) == .init(repeating: 10, count: 1024))
  }

  @Test("of an unknown kind is refused by name")
  func refusals() throws {
    func expectFault(_ text: String, _ change: (inout GGUFWriter) -> Void) {
      var writer = Self.file(tokens: ["a", "b", "ab"], merges: ["a b"])
      change(&writer)
      let error = #expect(throws: FileError.self) {
        try Tokenizer(try gguf(writer.bytes()))
      }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
    }
    expectFault("is llama, only gpt2") { $0.set("tokenizer.ggml.model", .string("llama")) }
    expectFault("is llama-bpe, which is not supported; known are gpt-2, smollm") {
      $0.set("tokenizer.ggml.pre", .string("llama-bpe"))
    }
    expectFault("tokenizer.ggml.tokens is missing") { $0.metadata.remove(at: 2) }
    expectFault("not an array of texts") { $0.set("tokenizer.ggml.tokens", .array(0, [.uint8(1)])) }
    expectFault("has 0 tokens") { $0.set("tokenizer.ggml.tokens", .strings([])) }
    expectFault("merge 0, ab, is not two symbols") {
      $0.set("tokenizer.ggml.merges", .strings(["ab"]))
    }
    expectFault("eos_token_id is 3, there are 3") {
      $0.set("tokenizer.ggml.eos_token_id", .uint32(3))
    }
    expectFault("add_space_prefix") { $0.set("tokenizer.ggml.add_space_prefix", .bool(true)) }
  }

  @Test(
    "downloaded: agrees with llama.cpp in every golden case",
    .enabled(if: DownloadedModel.path != nil, "scripts/fetch-model has not been run"),
    .enabled(if: SharedData.isPresent, "there is no ../shared/data beside the checkout"))
  func golden() throws {
    let tokenizer = try Tokenizer(GGUFFile(path: try #require(DownloadedModel.path)))
    #expect(tokenizer.vocabulary == 49_152)
    #expect(tokenizer.beginningToken == nil)
    #expect(tokenizer.endTokens == [0, 2])
    let file = try FileBytes.read(SharedData.path("golden/smollm2_tokenizer_golden.json"))
    let cases = try #require(try StrictJSON.parse(file.text).elements)
    #expect(cases.count == 176)
    // What the vocabulary has no token for.
    let dropped = Set(
      (UInt8.min...UInt8.max).filter { byte in
        [byte].withUnsafeBytes { tokenizer.encode($0) }.isEmpty
      })
    for example in cases {
      let text = try #require(example["text"]?.string)
      let ids = try #require(example["ids"]?.elements).compactMap(\.integer)
      let tokens = tokenizer.encode(text)
      #expect(tokens.map(Int.init) == ids, "\(text.debugDescription)")
      #expect(tokenizer.decode(tokens) == text.utf8.filter { !dropped.contains($0) })
    }
  }
}
