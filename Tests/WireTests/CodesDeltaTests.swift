import GranuleWire
import Testing

/// Rows of latents and values.
private typealias Codes = [[UInt32: Float]]

private func packed(_ rows: Codes) -> PackedCodes {
  var offsets: [UInt32] = [0]
  var indices: [UInt32] = []
  var values: [Float] = []
  for row in rows {
    for (index, value) in row.sorted(by: { $0.key < $1.key }) {
      indices.append(index)
      values.append(value)
    }
    offsets.append(UInt32(indices.count))
  }
  return PackedCodes(rowOffsets: offsets, indices: indices, values: values)
}

private func bytes(_ codes: PackedCodes) -> [[UInt8]] {
  [codes.rowOffsets, codes.indices, codes.values].map { $0.array(of: UInt8.self) }
}

@Suite struct CodesDeltaTests {
  @Test("changes applied to the old codes give the new ones, bit for bit")
  func roundTrip() throws {
    for _ in 0..<300 {
      let tokens = Int.random(in: 0..<5)
      func random() -> Codes {
        (0..<tokens).map { _ in
          Dictionary(
            (0..<Int.random(in: 0..<8)).map { _ in
              (UInt32.random(in: 0..<12), Float(Int.random(in: 1..<4)))
            }, uniquingKeysWith: { $1 })
        }
      }
      let (old, new) = (random(), random())
      let (changed, removed) = packed(new).difference(from: packed(old))
      #expect(
        try bytes(packed(old).applying(changed: changed, removed: removed)) == bytes(packed(new)))
      for (row, (old, new)) in zip(old, new).enumerated() {
        let offsets = changed.rowOffsets.array(of: UInt32.self)
        let told = changed.indices.array(of: UInt32.self)[
          Int(offsets[row])..<Int(offsets[row + 1])]
        #expect(told.allSatisfy { old[$0] != new[$0] }, "what stays is not told again")
      }
    }
  }

  @Test("changes that do not fit the codes are refused")
  func misfits() throws {
    let codes = packed([[1: 1, 5: 2], [:]])
    let none = packed([[:], [:]])
    func removal(_ offsets: [UInt32], _ indices: [UInt32]) -> PackedCodes {
      PackedCodes(rowOffsets: offsets, indices: indices, values: [])
    }
    let cases: [(changed: PackedCodes, removed: PackedCodes, String)] = [
      (none, removal([0, 1, 1], [2]), "loses latent 2"),
      (none, removal([0, 0, 1], [1]), "loses latent 1"),
      (none, removal([0, 2, 1], [1]), "removed.row_offsets: token 0 goes from 0 to 2"),
      (none, removal([0, 0, 7], [1]), "removed.row_offsets: go from 0 to 7"),
      (none, removal([1, 1, 1], [1]), "removed.row_offsets: go from 1 to 1"),
      (none, removal([0, 2, 2], [5, 1]), "removed.indices: token 0 has 1 after 5"),
      (none, removal([0, 1], [1]), "number of tokens"),
      (packed([[2: 1]]), removal([0, 0, 0], []), "number of tokens"),
      (
        PackedCodes(rowOffsets: [0, 2, 2], indices: [4, 3], values: [1, 1]),
        removal([0, 0, 0], []), "they must ascend"
      ),
    ]
    for (changed, removed, words) in cases {
      let error = #expect(throws: ServerError.self) {
        try codes.applying(changed: changed, removed: removed)
      }
      #expect(error?.message.contains(words) == true, "\(error?.message ?? "accepted"): \(words)")
    }
    #expect(
      try bytes(codes.applying(changed: none, removed: removal([0, 0, 0], []))) == bytes(codes))
  }
}
