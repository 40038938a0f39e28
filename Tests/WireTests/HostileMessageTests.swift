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

/// The payload of a request's frame.
private func packed(_ request: Request) -> [UInt8] {
  request.packed().payload.array(of: UInt8.self)
}

/// Random numbers from a seed, by Knuth's multiplier.
private struct PlainGenerator {
  private(set) var state = UInt64.random(in: 0 ... .max)

  /// A number from 0 up to, not including, `bound`.
  mutating func next(_ bound: Int) -> Int {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int(state >> 33) % bound
  }
}

/// The numbers of a message's fields in the order of their bytes, read by a plain loop; nil if the
/// message is malformed.
private func plainTags(_ bytes: ArraySlice<UInt8>) -> [UInt64]? {
  var (rest, tags) = (bytes, [UInt64]())
  func varint(bytesMax: Int) -> UInt64? {
    var value: UInt64 = 0
    for position in 0..<bytesMax {
      guard let byte = rest.popFirst() else { return nil }
      value |= UInt64(byte & 127) << (7 * UInt64(position))
      if byte < 128 { return value }
    }
    return nil
  }
  while !rest.isEmpty {
    // No field has the number 0.
    guard let first = rest.first, first >= 8, let tag = varint(bytesMax: 5) else { return nil }
    let byteCount: UInt64
    switch tag & 7 {
    case 0:
      guard varint(bytesMax: 10) != nil else { return nil }
      byteCount = 0
    case 1: byteCount = 8
    case 2:
      guard let length = varint(bytesMax: 5) else { return nil }
      byteCount = length
    case 5: byteCount = 4
    default: return nil
    }
    guard byteCount <= rest.count else { return nil }
    rest = rest.dropFirst(Int(byteCount))
    tags.append(tag >> 3)
  }
  return tags
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

  @Test("random bytes are malformed, or a message without a body, as a plain reader finds them")
  func garbage() throws {
    var generator = PlainGenerator()
    let seed = generator.state
    var counts = (malformed: 0, unknown: 0, missing: 0)
    for _ in 0..<5000 {
      // Half of them begin as fields that this contract does not have.
      var bytes: [UInt8] = []
      if generator.next(2) == 0 {
        bytes += (0..<generator.next(4)).flatMap { _ in unknownField(&generator) }
      }
      bytes += (0..<generator.next(64) * generator.next(2)).map { _ in UInt8(generator.next(256)) }
      guard let tags = plainTags(bytes[...]) else {
        counts.malformed += 1
        #expect(throws: UnpackingError.malformed, "\(bytes), seed \(seed)") { try receive(bytes) }
        continue
      }
      // The fields of a request may hold anything: other tests are about them.
      guard tags.allSatisfy({ !Self.requestFields.contains($0) }) else { continue }
      let received = try receive(bytes)
      let error = #expect(throws: ServerError.self) { try received.body.get() }
      if let tag = tags.first {
        counts.unknown += 1
        #expect(error?.code == .unimplemented, "\(bytes), seed \(seed)")
        #expect(error?.message.contains("field \(tag) is") == true, "\(bytes), seed \(seed)")
      } else {
        counts.missing += 1
        #expect(error?.code == .invalidArgument)
      }
    }
    #expect(counts.malformed > 1000 && counts.unknown > 500 && counts.missing > 100, "\(counts)")
  }

  /// The numbers of a request's fields.
  private static let requestFields: Set<UInt64> = [1, 2, 10, 11, 12, 13, 14, 20, 21, 22]

  /// A field of a random type whose number no request has.
  private func unknownField(_ generator: inout PlainGenerator) -> [UInt8] {
    let number = UInt64(30 + generator.next(1000))
    let bytes = (0..<generator.next(20)).map { _ in UInt8(generator.next(256)) }
    switch generator.next(4) {
    case 0: return varint(number << 3) + varint(UInt64(generator.next(1 << 30)))
    case 1: return varint(number << 3 | 1) + [UInt8](repeating: 9, count: 8)
    case 2: return varint(number << 3 | 2) + varint(UInt64(bytes.count)) + bytes
    default: return varint(number << 3 | 5) + [UInt8](repeating: 9, count: 4)
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

  @Test("a request with one byte changed is refused with the reason, or means something else")
  func changed() throws {
    let request = EncodeRequest(model: "m", activations: matrix(1, 2), k: 3)
    let payload = packed(Request(id: 1, call: .encode(request)))
    let data = request.activations.data.array(of: UInt8.self)
    let dataStart = try #require(
      payload.indices.first { payload[$0...].starts(with: data) })
    var counts = (malformed: 0, refused: 0, accepted: 0)
    for position in payload.indices {
      for value in UInt8.min...UInt8.max {
        var bytes = payload
        bytes[position] = value
        let place: Comment = "byte \(position) is \(value)"
        do {
          let received = try receive(bytes)
          let body = try received.body.get()
          if case .call(let call) = body { try call.validate() }
          counts.accepted += 1
          let again = packed(
            Request(id: received.id, timeoutMilliseconds: received.timeoutMilliseconds, body: body))
          #expect((again == payload) == (bytes == payload), place)
          if position >= dataStart, position < dataStart + data.count {
            #expect(again == bytes, place)
          }
        } catch let error as ServerError {
          counts.refused += 1
          #expect([.invalidArgument, .unimplemented].contains(error.code), place)
          #expect(error.message.contains("encode.") || error.message.hasPrefix("body: "), place)
        } catch {
          counts.malformed += 1
          #expect(error as? UnpackingError == .malformed, place)
        }
      }
    }
    // Activations are taken whatever their bits; a byte more or less of a length breaks the message.
    #expect(counts.accepted >= 256 * data.count, "\(counts)")
    #expect(counts.malformed > 500 && counts.refused > 500, "\(counts)")
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
