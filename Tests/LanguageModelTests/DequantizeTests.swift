import CGranuleKernels
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("Quantised tensors")
struct DequantizeTests {
  typealias Element = @Sendable (UnsafeRawPointer, Int) -> Float
  static let formats: [(type: GGUFElementType, element: Element)] = [
    (.q40, { gk_q4_0_element($0, $1) }), (.q41, { gk_q4_1_element($0, $1) }),
    (.q80, { gk_q8_0_element($0, $1) }), (.q4K, { gk_q4_k_element($0, $1) }),
    (.q6K, { gk_q6_k_element($0, $1) }),
  ]

  @Test("are what each element is by itself, to the bit")
  func matchReference() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var generator = SeededGenerator(seed: seed)
    for (type, element) in Self.formats {
      let blocks = 37
      let bytes = (0..<blocks * type.blockBytes).map { _ in
        UInt8.random(in: 0...255, using: &generator)
      }
      let count = blocks * type.blockElements
      let writer = GGUFWriter(
        [], [.init("t", [blocks, type.blockElements], type: type.rawValue, bytes: bytes)])
      let values = try #require(try gguf(writer.bytes())["t"]).float32().array
      #expect(values.count == count)
      bytes.withUnsafeBytes { raw in
        for (index, value) in values.enumerated() {
          let expected = element(raw.baseAddress!, index)
          // Random scales may be no numbers, whose bits are not defined.
          #expect(
            value.bitPattern == expected.bitPattern || (value.isNaN && expected.isNaN),
            "\(type.name) element \(index), seed \(seed)")
        }
      }
    }
  }

  /// 1.0, −2.0 and 0.5 in half precision, little-endian.
  static let (one, minusTwo, half): ([UInt8], [UInt8], [UInt8]) = (
    [0, 0x3C], [0, 0xC0], [0, 0x38]
  )

  func values(_ type: GGUFElementType, _ bytes: [UInt8]) throws -> [Float] {
    #expect(bytes.count == type.blockBytes)
    let writer = GGUFWriter(
      [], [.init("t", [type.blockElements], type: type.rawValue, bytes: bytes)])
    return try #require(try gguf(writer.bytes())["t"]).float32().array
  }

  @Test("of blocks worked out by hand have the values that the formats define")
  func byHand() throws {
    let nibbles = (0..<16).map { UInt8($0 | (15 - $0) << 4) }  // 0 … 15 below, 15 … 0 above
    let ramp = (0..<16).map(Float.init) + (0..<16).reversed().map(Float.init)
    #expect(try values(.q40, Self.minusTwo + nibbles) == ramp.map { -2 * ($0 - 8) })
    #expect(try values(.q41, Self.half + Self.minusTwo + nibbles) == ramp.map { $0 / 2 - 2 })
    let signed = (0..<32).map { Int8($0 * 8 - 128) }
    #expect(
      try values(.q80, Self.half + signed.map { UInt8(bitPattern: $0) })
        == signed.map { Float($0) / 2 })

    // Scales 1 … 4 and 49 … 52, minima 10 … 13 and 33 … 36: the last four of each have their high
    // bits (3 and 2) atop the first eight bytes.
    let scales: [Float] = [1, 2, 3, 4, 49, 50, 51, 52]
    let minima: [Float] = [10, 11, 12, 13, 33, 34, 35, 36]
    let packed: [UInt8] =
      [1, 2, 3, 4].map { $0 | 3 << 6 } + [10, 11, 12, 13].map { $0 | 2 << 6 }
      + zip([1, 2, 3, 4], [1, 2, 3, 4]).map { UInt8($0 | $1 << 4) }
    let quants = [[UInt8]](repeating: nibbles + nibbles.reversed(), count: 4).flatMap { $0 }
    let expected = (0..<256).map { index in
      let (group, l) = (index / 32, index % 32)
      let byte = l < 16 ? l : 31 - l
      let q = group % 2 == 0 ? byte : 15 - byte
      return scales[group] * Float(q) - 0.5 * minima[group]
    }
    #expect(try values(.q4K, Self.one + Self.half + packed + quants) == expected)

    // Low bits l % 16 everywhere, high bits 0, 1, 2, 3 for the four runs of each half.
    let low = (0..<128).map { UInt8($0 % 16 | ($0 % 16) << 4) }
    let high = [UInt8](repeating: 0b11_10_01_00, count: 64)
    let groupScales = (0..<16).map { UInt8(bitPattern: Int8($0 - 8)) }
    let expected6 = (0..<256).map { index in
      let run = index % 128 / 32
      return 0.5 * Float(index / 16 - 8) * Float(index % 16 + 16 * run - 32)
    }
    #expect(try values(.q6K, low + high + groupScales + Self.half) == expected6)
  }
}
