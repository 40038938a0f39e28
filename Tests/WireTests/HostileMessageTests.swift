import GranuleWire
import Testing

/// Tag, length and bytes of a length-delimited field.
func field(_ number: Int, _ bytes: [UInt8]) -> [UInt8] {
  varint(UInt64(number << 3 | 2)) + varint(UInt64(bytes.count)) + bytes
}

func varint(_ value: UInt64) -> [UInt8] {
  var (rest, bytes) = (value, [UInt8]())
  while rest > 127 {
    bytes.append(UInt8(rest & 127) | 128)
    rest >>= 7
  }
  return bytes + [UInt8(rest)]
}

@Suite struct HostileMessageTests {
  @Test("a request cut short anywhere is malformed, or wrong in a field, and never more than that")
  func truncated() throws {
    let frame = Request(
      id: 1,
      call: .encode(EncodeRequest(model: "m", activations: matrix(2, 3), granularities: [4]))
    ).packed()
    let payload = frame.payload.array(of: UInt8.self)
    for count in 0..<payload.count {
      let received: ReceivedRequest
      do {
        received = try receive([UInt8](payload[..<count]))
      } catch {
        #expect(error as? UnpackingError == .malformed)
        continue
      }
      #expect(throws: ServerError.self, "cut at \(count)") { try received.call() }
    }
  }

  @Test("random bytes never crash, and are refused by name")
  func garbage() {
    var generator = SystemRandomNumberGenerator()
    let seed = generator.next()
    var state = seed
    for _ in 0..<5000 {
      let bytes = (0..<Int(state >> 58)).map { _ -> UInt8 in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(truncatingIfNeeded: state >> 33)
      }
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      do {
        if case .success(let body) = try receive(bytes).body { _ = body }
      } catch {
        #expect(error is UnpackingError, "seed \(seed)")
      }
    }
  }

  @Test("whichever allocation is refused, the message is read whole or refused for its memory")
  func refusedAllocations() throws {
    let payload = field(
      10,
      field(1, Array("m".utf8)) + field(3, [8, 1] + field(2, [1, 2]) + field(3, [0, 0, 0, 0]))
        + field(4, [1, 2, 4]) + field(99, [7, 7]))
    let frame = [8, 5] + payload
    let full = try receive(frame)
    var refused = 0
    for bytes in 0...full.memoryBytes {
      do {
        let received = try frame.withUnsafeBytes {
          try ReceivedRequest(unpacking: $0, memoryBytesMax: bytes)
        }
        #expect(received.memoryBytes == bytes && bytes == full.memoryBytes)
      } catch {
        refused += 1
        #expect(error as? UnpackingError == .tooMuchMemory(limit: bytes))
      }
    }
    #expect(refused == full.memoryBytes)
  }

  @Test("flipping any byte of a good request never crashes")
  func flipped() throws {
    let frame = Request(
      id: 1, call: .encode(EncodeRequest(model: "m", activations: matrix(1, 2), k: 3))
    ).packed()
    let payload = frame.payload.array(of: UInt8.self)
    for position in payload.indices {
      for value in UInt8.min...UInt8.max {
        var bytes = payload
        bytes[position] = value
        _ = try? receive(bytes)
      }
    }
  }

  @Test("a message that unpacks into more memory than allowed is refused as such")
  func memoryBomb() {
    // Each unknown field of two bytes becomes a structure and an allocation.
    let bomb = [UInt8]([120, 0].repeated(500_000))
    #expect(throws: UnpackingError.tooMuchMemory(limit: 2 << 20)) {
      try receive(bomb, memoryBytesMax: 2 << 20)
    }
    // It may not take many times its length, whatever the limit.
    #expect(throws: UnpackingError.tooMuchMemory(limit: 4_065_536)) {
      try receive(bomb, memoryBytesMax: 96 << 20)
    }
    let honest = Request(
      id: 1, call: .encode(EncodeRequest(model: "m", activations: matrix(100, 100)))
    ).packed()
    #expect(throws: UnpackingError.tooMuchMemory(limit: 30_000)) {
      try receive(honest.payload.array(of: UInt8.self), memoryBytesMax: 30_000)
    }
    #expect(throws: Never.self) {
      try receive(honest.payload.array(of: UInt8.self), memoryBytesMax: 50_000)
    }
  }

  @Test("long messages with every field full have the memory that they need")
  func honestSizes() throws {
    let name = String(repeating: "m", count: 128)
    let codes = PackedCodes(
      rowOffsets: (0...100_000).map { UInt32($0) },
      indices: [UInt32](repeating: 5, count: 100_000),
      values: [Float](repeating: 1, count: 100_000))
    let calls: [Call] = [
      .encode(
        EncodeRequest(
          model: name, activations: matrix(1000, 1000), granularities: Array(1...100_000))),
      .encode(EncodeRequest(model: name, activations: matrix(1, 1), granularities: Array(1...64))),
      .decode(DecodeRequest(model: name, codes: codes)),
    ]
    for call in calls {
      let received = try reread(Request(id: 1, call: call), memoryBytesMax: 96 << 20)
      #expect(throws: Never.self) { try received.call() }
    }
    // Nothing but numbers of a byte each, packed; and a few that are not.
    let packed = field(10, field(4, [UInt8](repeating: 1, count: 1_000_000)))
    #expect(try receive([8, 1] + packed, memoryBytesMax: 96 << 20).method == .encode)
    let unpacked = field(10, (1...100).flatMap { [0x20, UInt8($0)] })
    #expect(try receive([8, 1] + unpacked).method == .encode)
  }

  @Test("a repeated body leaves the last one, and leaks nothing")
  func repeatedBody() throws {
    let encode = field(10, field(1, Array("a".utf8)))
    let unload = field(21, field(1, Array("b".utf8)))
    let received = try receive([8, 1] + encode + encode + unload + encode + unload)
    #expect("\(try received.call())" == "\(Call.unloadModel(name: "b", version: 0))")
  }

  @Test("strings with NUL or without UTF-8 are refused, naming the field")
  func strings() throws {
    for (bytes, words) in [
      (Array("a\0b".utf8), "contains NUL"), (Array("ab\0".utf8), "contains NUL"),
      ([0xff, 0xfe], "is not UTF-8"), ([0xed, 0xa0, 0x80], "is not UTF-8"),
    ] {
      let received = try receive([8, 1] + field(21, field(1, bytes)))
      let error = #expect(throws: ServerError.self) { try received.call() }
      #expect(received.method == .unloadModel)
      #expect(error?.code == .invalidArgument)
      #expect(error?.message.contains("unload_model.name: \(words)") == true, "\(bytes)")
    }
  }

  @Test("an unknown data type, or none, is refused by name")
  func dataType() throws {
    for type in [0, 4, 200] as [UInt64] {
      let tensor = [8] + varint(type) + field(2, [1, 1]) + field(3, [0, 0, 0, 0])
      let payload = [8, 1] + field(10, field(1, Array("m".utf8)) + field(3, tensor))
      let error = #expect(throws: ServerError.self) { try receive(payload).call() }
      #expect(error?.message.contains("encode.activations.type: \(type)") == true)
    }
    let missing = #expect(throws: ServerError.self) {
      try receive([8, 1] + field(10, field(1, Array("m".utf8)))).call()
    }
    #expect(missing?.message == "encode.activations: is missing")
  }

  @Test("a body that this server does not know is unimplemented, and named")
  func unknownBody() throws {
    let received = try receive([8, 1] + field(99, []))
    let error = #expect(throws: ServerError.self) { try received.call() }
    #expect(received.method == .unknown)
    #expect(error?.code == .unimplemented)
    #expect(error?.message.contains("field 99") == true)
    let missing = #expect(throws: ServerError.self) { try receive([8, 1]).call() }
    #expect(missing?.code == .invalidArgument)
  }
}

extension Array {
  func repeated(_ times: Int) -> [Element] {
    [Self](repeating: self, count: times).flatMap { $0 }
  }
}
