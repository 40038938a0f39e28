import GranuleCalls
import Testing

@Suite struct ValidationTests {
  func error(_ call: Call) -> ServerError? {
    #expect(throws: ServerError.self) { try call.validate() }
  }

  @Test("model names that could leave the repository are refused")
  func names() throws {
    for name in ["", "..", ".hidden", "a/b", "-x", "ä", "a b", String(repeating: "a", count: 129)] {
      let message = error(.unloadModel(name: name, version: 0))?.message
      #expect(message?.contains("unload_model.name") == true, "\(name)")
    }
    for name in ["a", "A9", "a.b_c-d", String(repeating: "a", count: 128)] {
      #expect(throws: Never.self) {
        try Call.unloadModel(name: name, version: 0).validate()
      }
    }
  }

  @Test("tensors whose shape and data disagree are refused, however large the shape")
  func tensors() throws {
    func tensor(_ shape: [UInt32], bytes: Int) -> Call {
      .encode(
        EncodeRequest(
          model: "m",
          activations: PackedTensor(
            type: .float16, shape: shape,
            data: SharedBytes(copying: [UInt8](repeating: 0, count: bytes)))))
    }
    let huge = UInt32.max
    for (shape, bytes) in [
      ([2, 3], 11), ([2, 3], 13), ([2, 3], 0), ([huge, huge], 0), ([huge, huge], 8),
      ([1 << 31, 1 << 31], 0), ([6], 12), ([1, 2, 3], 12), ([], 0), ([huge, 0], 0),
    ] as [([UInt32], Int)] {
      let error = error(tensor(shape, bytes: bytes))
      #expect(error?.code == .invalidArgument)
      #expect(error?.message.hasPrefix("encode.activations.") == true, "\(shape)")
    }
    for (shape, bytes) in [([2, 3], 12), ([0, 3], 0)] as [([UInt32], Int)] {
      #expect(throws: Never.self) {
        try tensor(shape, bytes: bytes).validate()
      }
    }
  }

  @Test("granularities that do not ascend, and a target FVU that is no number, are refused")
  func numbers() throws {
    var request = EncodeRequest(
      model: "m",
      activations: PackedTensor(
        type: .float32, shape: [1, 1], data: SharedBytes(copying: [Float(0)])))
    for granularities in [[0], [2, 2], [3, 1], [1, 0]] as [[UInt32]] {
      request.granularities = granularities
      #expect(error(.encode(request))?.message.hasPrefix("encode.granularities: ") == true)
    }
    request.granularities = [4]
    request.minGranularity = 5
    #expect(error(.encode(request))?.message.hasPrefix("encode.min_granularity: ") == true)
    request.minGranularity = 0
    for target in [-1, Float.nan, Float.infinity] {
      request.targetFVU = target
      #expect(error(.encode(request))?.message.hasPrefix("encode.target_fvu: ") == true)
    }
  }

  @Test("codes that are no compressed sparse rows are refused, naming the array")
  func codes() throws {
    func bytes(_ count: Int) -> SharedBytes {
      SharedBytes(copying: [UInt8](repeating: 0, count: count))
    }
    for (offsets, indices, values) in [(0, 0, 0), (3, 0, 0), (6, 0, 0), (8, 4, 8), (8, 3, 3)] {
      let codes = PackedCodes(
        rowOffsets: bytes(offsets), indices: bytes(indices), values: bytes(values))
      #expect(error(.decode(DecodeRequest(model: "m", codes: codes)))?.code == .invalidArgument)
    }
    func rows(_ offsets: [UInt32], _ indices: [UInt32], _ values: [Float]) throws {
      let codes = PackedCodes(rowOffsets: offsets, indices: indices, values: values)
      try codes.check(latents: 10)
    }
    for (offsets, indices, values, word) in [
      ([1, 1], [2], [1], "row_offsets"), ([0, 2], [2], [1], "row_offsets"),
      ([0, 2, 1, 3], [1, 2, 3], [1, 1, 1], "row_offsets"),
      ([0, 9, 1], [1], [1], "row_offsets"),
      ([0, 2], [2, 2], [1, 1], "indices"), ([0, 2], [3, 2], [1, 1], "indices"),
      ([0, 1], [10], [1], "indices"), ([0, 1], [2], [0], "values"), ([0, 1], [2], [-1], "values"),
      ([0, 1], [2], [.nan], "values"), ([0, 1], [2], [.infinity], "values"),
    ] as [([UInt32], [UInt32], [Float], String)] {
      let error = #expect(throws: ServerError.self) { try rows(offsets, indices, values) }
      #expect(error?.message.hasPrefix("codes.\(word): ") == true, "\(offsets) \(indices)")
    }
    #expect(throws: Never.self) { try rows([0, 2, 2, 3], [0, 9, 4], [1, 2, 3]) }
    #expect(throws: Never.self) { try rows([0], [], []) }
  }
}
