import GranuleTensors
import Testing

@Suite("Sparse codes")
struct SparseCodesTests {
  typealias Arrays = (rowOffsets: [UInt32], indices: [UInt32], values: [Float])

  /// Bytes at an odd address, since the wire aligns nothing.
  func withView<R>(_ arrays: Arrays, _ body: (CodesView) throws -> R) throws -> R {
    let parts =
      [
        arrays.rowOffsets.withUnsafeBytes { [0] + Array($0) },
        arrays.indices.withUnsafeBytes { [0] + Array($0) },
        arrays.values.withUnsafeBytes { [0] + Array($0) },
      ] as [[UInt8]]
    return try parts[0].withUnsafeBytes { offsets in
      try parts[1].withUnsafeBytes { indices in
        try parts[2].withUnsafeBytes { values in
          try body(
            CodesView(
              rowOffsets: .init(rebasing: offsets[1...]), indices: .init(rebasing: indices[1...]),
              values: .init(rebasing: values[1...])))
        }
      }
    }
  }

  static let unsound: [(Arrays, String)] = [
    (([], [], []), "row_offsets: has 0 bytes"),
    (([0, 1], [3], []), "indices has 4 bytes and values 0"),
    (([1, 1], [3], [1]), "row_offsets: go from 1 to 1"),
    (([0, 2], [3], [1]), "row_offsets: go from 0 to 2"),
    (([0, 2, 1], [3], [1]), "row_offsets: token 0 goes from 0 to 2"),
    (([0, 2, 1, 3], [1, 2, 3], [1, 1, 1]), "row_offsets: token 1 goes from 2 to 1"),
    (([0, 2], [3, 3], [1, 1]), "indices: token 0 has 3 after 3"),
    (([0, 0, 2], [4, 3], [1, 1]), "indices: token 1 has 3 after 4"),
    (([0, 1], [3], [0]), "values: token 0 has 0.0"),
    (([0, 1], [3], [-0.0]), "values: token 0 has -0.0"),
    (([0, 1], [3], [-1]), "values: token 0 has -1.0"),
    (([0, 1], [3], [.nan]), "values: token 0 has nan"),
    (([0, 1], [3], [.infinity]), "values: token 0 has inf"),
  ]

  @Test("that are not sound are refused by every door, naming the array and the token")
  func refusals() throws {
    for (arrays, words) in Self.unsound {
      let owned = #expect(throws: CodesError.self) {
        try SparseCodes(
          rowOffsets: arrays.rowOffsets, indices: arrays.indices, values: arrays.values)
      }
      let copied = #expect(throws: CodesError.self) {
        try withView(arrays) { try SparseCodes(copying: $0) }
      }
      #expect(owned?.description.hasPrefix(words) == true, "\(arrays)")
      #expect(copied?.description == owned?.description, "\(arrays)")
    }
  }

  @Test("that are sound are taken whole or in part, as far as latents reach")
  func sound() throws {
    let arrays: Arrays = ([0, 2, 2, 3], [0, .max, 4], [1, 2, .leastNonzeroMagnitude])
    let codes = try SparseCodes(
      rowOffsets: arrays.rowOffsets, indices: arrays.indices, values: arrays.values)
    try withView(arrays) { (view) throws in
      #expect(try SparseCodes(copying: view) == codes)
      #expect(try SparseCodes(copying: view, tokens: 1..<3, latents: 5) == codes.tokens(1..<3))
      #expect(view.tokens == 3 && view.active == 3)
      #expect(throws: CodesError.self) { try view.check(latents: 5) }
      #expect(throws: CodesError.self) { try view.check(tokens: 1..<3, latents: 4) }
    }
    // The offset of no token is looked at, wherever it leads.
    try withView(([0, 9, 1], [3], [1])) { (view) throws in
      #expect(try SparseCodes(copying: view, tokens: 1..<1) == SparseCodes())
    }
    #expect(codes.tokens(1..<3).rowOffsets == [0, 0, 1])
    var joined = codes.tokens(0..<1)
    joined.append(codes.tokens(1..<3))
    #expect(joined == codes)
    #expect(try SparseCodes(rowOffsets: [0], indices: [], values: []) == SparseCodes())
  }
}
