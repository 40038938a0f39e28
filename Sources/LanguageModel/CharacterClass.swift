/// What the patterns of pre-tokenisers tell apart.
enum CharacterClass: UInt8 {
  case letter, number, whitespace, other

  init(_ scalar: Unicode.Scalar) {
    let properties = scalar.properties
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter:
      self = .letter
    case .decimalNumber, .letterNumber, .otherNumber: self = .number
    default: self = properties.isWhitespace ? .whitespace : .other
    }
  }

  /// The class of every character of the Basic Multilingual Plane, since looking a property up takes
  /// longer than everything else that a scanner does with a character.
  private static let basicPlane: [CharacterClass] = (0..<UInt32(0x10000)).map { value in
    Unicode.Scalar(value).map { CharacterClass($0) } ?? .other
  }

  /// The character that begins at `offset`, and its length in bytes. A byte that begins no valid
  /// UTF-8 is a character by itself, of class `other`.
  @inline(__always)
  static func at(_ offset: Int, of text: UnsafeRawBufferPointer) -> (CharacterClass, Int) {
    let first = text[offset]
    if first < 0x80 { return (basicPlane[Int(first)], 1) }
    return multiByte(offset, of: text)
  }

  private static func multiByte(
    _ offset: Int, of text: UnsafeRawBufferPointer
  ) -> (CharacterClass, Int) {
    let first = UInt32(text[offset])
    let length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2
    guard (0xC2...0xF4).contains(first), offset + length <= text.count else { return (.other, 1) }
    var value = first & (0x7F >> UInt32(length))
    for next in offset + 1..<offset + length {
      guard text[next] & 0xC0 == 0x80 else { return (.other, 1) }
      value = value << 6 | UInt32(text[next] & 0x3F)
    }
    // Overlong forms and surrogates are not valid UTF-8.
    let smallest: UInt32 = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80
    guard value >= smallest, let scalar = Unicode.Scalar(value) else { return (.other, 1) }
    return (value < 0x10000 ? basicPlane[Int(value)] : CharacterClass(scalar), length)
  }
}
