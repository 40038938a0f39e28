public import GranuleFiles
internal import GranuleTensors

/// A byte-level byte-pair tokenizer, as GPT-2's, from a GGUF file.
///
/// Text is plain: names of special tokens in it stand for themselves. Any bytes can be encoded; what
/// is not valid UTF-8 counts as one character a byte. Decoding gives exactly the same bytes back, except for
/// bytes that the vocabulary has no token for, which are dropped (SmolLM2 lacks some that occur in
/// hardly any text).
public struct Tokenizer: Sendable {
  /// Number of tokens.
  public var vocabulary: Int { tokenBytes.count }
  /// How text is cut into words before merging, by the name in the file: `gpt-2` or `smollm`.
  public var preTokenizerName: String { preTokenizer.rawValue }
  /// The token that begins every text, where the model wants one.
  public let beginningToken: Int32?
  /// Tokens that end a text: `<|endoftext|>`, and what the file names as end of text or sequence.
  public let endTokens: Set<Int32>

  package let preTokenizer: PreTokenizer
  private let merges: BytePairMerges
  /// For each token its bytes.
  private let tokenBytes: [[UInt8]]
  /// For each byte its symbol.
  private let byteSymbols: [Int32]
  /// For each symbol its tokens: one, unless the vocabulary lacks the symbol; then those of its
  /// bytes. Symbols below `vocabulary` are the tokens of the same number.
  private let tokensOfOtherSymbols: [[Int32]]

  /// Words kept with their tokens while a text is encoded.
  static let cachedWordsMax = 1 << 16
  /// The longest of them, in bytes.
  static let cachedWordBytesMax = 64

  /// Reads the tokenizer of a GGUF file.
  ///
  /// - Throws: `FileError`, naming the key, if it is missing or malformed, or names a kind
  ///   of tokenizer or pre-tokenizer that is not supported.
  public init(_ file: GGUFFile) throws(FileError) {
    let modelKey = "tokenizer.ggml.model"
    let model = try file.required(modelKey, "a text", \.string)
    guard model == "gpt2" else {
      throw file.fault(key: modelKey, "is \(model), only gpt2 (byte-level BPE) is supported")
    }
    let preTokenizerKey = "tokenizer.ggml.pre"
    let name = try file.required(preTokenizerKey, "a text", \.string)
    guard let preTokenizer = PreTokenizer(rawValue: name) else {
      let known = PreTokenizer.allCases.map(\.rawValue).joined(separator: ", ")
      throw file.fault(
        key: preTokenizerKey, "is \(name), which is not supported; known are \(known)")
    }
    let prefixKey = "tokenizer.ggml.add_space_prefix"
    guard try file.optional(prefixKey, "a truth value", \.bool) != true else {
      throw file.fault(key: prefixKey, "is true, but a space before the text is not supported")
    }
    func texts(_ key: String) throws(FileError) -> [String] {
      guard let texts = try file.required(key, "an array", \.array).strings() else {
        throw file.fault(key: key, "is not an array of texts")
      }
      return texts
    }
    let tokensKey = "tokenizer.ggml.tokens"
    let tokens = try texts(tokensKey)
    guard (1...LlamaConfiguration.countMax).contains(tokens.count) else {
      throw file.fault(key: tokensKey, "has \(tokens.count) tokens")
    }
    var symbols = SymbolTable(tokens)
    let byteSymbols = (0...255).map { symbols.symbol(of: [UInt8($0)]) }

    let mergesKey = "tokenizer.ggml.merges"
    var merges = BytePairMerges()
    for (rank, text) in try texts(mergesKey).enumerated() {
      let utf8 = Array(text.utf8)
      // A merge of a space itself would be written with the character that stands for it.
      guard let space = utf8.dropFirst().firstIndex(of: UInt8(ascii: " ")), space + 1 < utf8.count
      else { throw file.fault(key: mergesKey, "merge \(rank), \(text), is not two symbols") }
      let left = ByteAlphabet.bytes(of: utf8[..<space])
      let right = ByteAlphabet.bytes(of: utf8[(space + 1)...])
      merges.add(
        symbols.symbol(of: left), symbols.symbol(of: right),
        .init(rank: Int32(truncatingIfNeeded: rank), symbol: symbols.symbol(of: left + right)))
    }

    func token(_ key: String) throws(FileError) -> Int32? {
      guard let id = try file.optional("tokenizer.ggml.\(key)", "an integer", \.integer) else {
        return nil
      }
      guard tokens.indices.contains(id) else {
        throw file.fault(key: "tokenizer.ggml.\(key)", "is \(id), there are \(tokens.count) tokens")
      }
      return Int32(id)
    }
    let addsBeginning = try file.optional(
      "tokenizer.ggml.add_bos_token", "a truth value", \.bool)
    beginningToken = addsBeginning == true ? try token("bos_token_id") : nil
    var endTokens: Set<Int32> = []
    for key in ["eos_token_id", "eot_token_id"] {
      if let token = try token(key) { endTokens.insert(token) }
    }
    if let token = tokens.firstIndex(of: "<|endoftext|>") { endTokens.insert(Int32(token)) }
    self.endTokens = endTokens
    self.preTokenizer = preTokenizer
    self.merges = merges
    self.byteSymbols = byteSymbols
    tokenBytes = Array(symbols.bytes[..<tokens.count])
    tokensOfOtherSymbols = symbols.bytes[tokens.count...].map { bytes in
      bytes.map { byteSymbols[Int($0)] }.filter { $0 < tokens.count }
    }
  }

  /// The tokens of a text, without a beginning token.
  public func encode(_ text: String) -> [Int32] {
    var text = text
    return text.withUTF8 { encode(UnsafeRawBufferPointer($0)) }
  }

  /// The tokens of a text's bytes, without a beginning token.
  public func encode(_ text: UnsafeRawBufferPointer) -> [Int32] {
    var tokens: [Int32] = []
    tokens.reserveCapacity(text.count / 3)
    var cache: [WordBytes: Range<Int>] = [:]
    var scratch = BytePairMerges.Scratch()
    var symbols: [Int32] = []
    preTokenizer.forEachWord(of: text) { word in
      let bytes = UnsafeRawBufferPointer(rebasing: text[word])
      let key = WordBytes(bytes: bytes)
      // The tokens of a word met before are where they were written then.
      if let earlier = cache[key] {
        for index in earlier { tokens.append(tokens[index]) }
        return
      }
      symbols.removeAll(keepingCapacity: true)
      for byte in bytes { symbols.append(byteSymbols[Int(byte)]) }
      merges.apply(to: &symbols, scratch: &scratch)
      let start = tokens.count
      for symbol in symbols {
        if symbol < vocabulary {
          tokens.append(symbol)
        } else {
          tokens += tokensOfOtherSymbols[Int(symbol) - vocabulary]
        }
      }
      if word.count <= Self.cachedWordBytesMax, cache.count < Self.cachedWordsMax {
        cache[key] = start..<tokens.count
      }
    }
    return tokens
  }

  /// The bytes that tokens stand for; special tokens give their names.
  ///
  /// - Precondition: every token is in 0 ..< vocabulary.
  public func decode(_ tokens: some Sequence<Int32>) -> [UInt8] {
    var bytes: [UInt8] = []
    for token in tokens { bytes += tokenBytes[Int(token)] }
    return bytes
  }

  /// The text that tokens stand for, with U+FFFD for what is not valid UTF-8: a token may hold a part
  /// of a character.
  public func text(_ tokens: some Sequence<Int32>) -> String {
    String(decoding: decode(tokens), as: UTF8.self)
  }
}

/// A word where it lies in the text, compared by its bytes; alive while the text is encoded.
private struct WordBytes: Hashable {
  let bytes: UnsafeRawBufferPointer

  static func == (a: WordBytes, b: WordBytes) -> Bool { a.bytes.elementsEqual(b.bytes) }
  func hash(into hasher: inout Hasher) { hasher.combine(bytes: bytes) }
}

/// Numbers byte strings: tokens first, in their order, then whatever merges mention besides.
private struct SymbolTable {
  private(set) var bytes: [[UInt8]]
  private var symbols: [[UInt8]: Int32] = [:]

  init(_ tokens: [String]) {
    bytes = tokens.map { ByteAlphabet.bytes(of: Array($0.utf8)[...]) }
    symbols.reserveCapacity(bytes.count)
    for (token, bytes) in bytes.enumerated() where symbols[bytes] == nil {
      symbols[bytes] = Int32(token)
    }
  }

  mutating func symbol(of string: [UInt8]) -> Int32 {
    if let symbol = symbols[string] { return symbol }
    let symbol = Int32(bytes.count)
    bytes.append(string)
    symbols[string] = symbol
    return symbol
  }
}

/// The 256 printable characters that byte-level vocabularies write bytes with: printable Latin-1
/// characters stand for themselves, the other 68 bytes in order for U+0100 and on.
private enum ByteAlphabet {
  private static let bytesOfCharacters: [Unicode.Scalar: UInt8] = {
    var result: [Unicode.Scalar: UInt8] = [:]
    var others: UInt32 = 256
    for byte in UInt8.min...UInt8.max {
      switch byte {
      case 33...126, 161...172, 174...255: result[Unicode.Scalar(byte)] = byte
      default:
        result[Unicode.Scalar(others) ?? "?"] = byte
        others += 1
      }
    }
    return result
  }()

  /// The bytes that a vocabulary's text stands for; a text with any other character, as names of
  /// special tokens may have, stands for its own UTF-8.
  static func bytes(of utf8: ArraySlice<UInt8>) -> [UInt8] {
    var bytes: [UInt8] = []
    for scalar in String(decoding: utf8, as: UTF8.self).unicodeScalars {
      guard let byte = bytesOfCharacters[scalar] else { return Array(utf8) }
      bytes.append(byte)
    }
    return bytes
  }
}
