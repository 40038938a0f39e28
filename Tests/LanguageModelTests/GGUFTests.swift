import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

/// Reads bytes as if they were a file.
func gguf(_ bytes: [UInt8]) throws(FileError) -> GGUFFile {
  try bytes.withBytes { (bytes) throws(FileError) in
    try GGUFFile(FileBytes.copy(bytes, named: "a.gguf"))
  }
}

@Suite("GGUF files")
struct GGUFTests {
  @Test("give back metadata of every type")
  func metadata() throws {
    let writer = GGUFWriter([
      ("u8", .uint8(255)), ("i8", .int8(-128)), ("u16", .uint16(65_535)), ("i16", .int16(-32_768)),
      ("u32", .uint32(.max)), ("i32", .int32(.min)), ("u64", .uint64(.max)), ("i64", .int64(.min)),
      ("f32", .float32(1.5)), ("f64", .float64(-2.25)), ("yes", .bool(true)), ("no", .bool(false)),
      ("text", .string("Größe 你好")), ("empty", .string("")),
      ("texts", .strings(["a", "", "Ġb"])), ("numbers", .array(5, [.int32(-3), .int32(4)])),
      ("nested", .array(9, [.array(0, [.uint8(1)]), .array(8, [.string("x"), .string("y")])])),
      ("none", .array(6, [])),
    ])
    let file = try gguf(writer.bytes())
    func value(_ key: String) throws -> GGUFValue { try #require(file.metadata[key]) }
    #expect(try value("u8").integer == 255)
    #expect(try value("i8").integer == -128)
    #expect(try value("u16").integer == 65_535)
    #expect(try value("i16").integer == -32_768)
    #expect(try value("u32").integer == 4_294_967_295)
    #expect(try value("i32").integer == -2_147_483_648)
    #expect(try value("u64").integer == nil)
    #expect(try value("u64").number == 0x1p64)
    #expect(try value("i64").integer == .min)
    #expect(try value("f32").number == 1.5)
    #expect(try value("f64").number == -2.25)
    #expect(try value("yes").bool == true)
    #expect(try value("no").bool == false)
    #expect(try value("text").string == "Größe 你好")
    #expect(try value("empty").string == "")
    #expect(try value("texts").array?.strings() == ["a", "", "Ġb"])
    #expect(try value("texts").array?.integers() == nil)
    #expect(try value("numbers").array?.integers() == [-3, 4])
    #expect(try value("none").array?.count == 0)
    let nested = try #require(try value("nested").array?.values())
    #expect(try nested[0].array?.integers() == [1])
    #expect(try nested[1].array?.strings() == ["x", "y"])
  }

  @Test("give back tensors, outermost dimension first, at any alignment")
  func tensors() throws {
    for alignment in [1, 8, 32, 256] {
      var writer = GGUFWriter(
        [("general.alignment", .uint32(UInt32(alignment)))],
        [
          .init("a", [2, 3], [1, 2, 3, 4, 5, 6]), .init("b", [1], [-7]),
          .init("half", [2], type: 1, bytes: [0x00, 0x3C, 0x00, 0xC1]),
          .init("brain", [2], type: 30, bytes: [0x80, 0x3F, 0x20, 0xC0]),
        ])
      writer.alignment = alignment
      let file = try gguf(writer.bytes())
      #expect(file["a"]?.shape == [2, 3])
      #expect(file["a"]?.float32().array == [1, 2, 3, 4, 5, 6])
      #expect(file["b"]?.float32().array == [-7])
      #expect(file["half"]?.float32().array == [1, -2.5])
      #expect(file["brain"]?.float32().array == [1, -2.5])
    }
  }

  @Test("that break the format are refused with what is wrong and where")
  func refusals() throws {
    func expectFault(_ text: String, _ change: (inout GGUFWriter) -> Void) {
      var writer = GGUFWriter(
        [("key", .uint8(1))], [.init("t", [2, 32], .init(repeating: 1, count: 64))])
      change(&writer)
      let error = #expect(throws: FileError.self) { try gguf(writer.bytes()) }
      #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
    }
    expectFault("version 2") { $0.version = 2 }
    expectFault("big-endian") { $0.version = UInt32(3).byteSwapped }
    expectFault("key key: occurs twice") { $0.metadata.append(("key", .bool(true))) }
    expectFault("tensor t: occurs twice") { $0.tensors.append($0.tensors[0]) }
    expectFault("general.alignment") { $0.set("general.alignment", .uint32(24)) }
    expectFault("general.alignment") { $0.set("general.alignment", .string("32")) }
    expectFault("key x: arrays are nested") {
      var value = GGUFWriter.Value.array(0, [])
      for _ in 0..<8 { value = .array(9, [value]) }
      $0.set("x", value)
    }
    expectFault("tensor t: has element type Q5_1") { $0.tensors[0].type = 7 }
    expectFault("tensor t: has element type number 99") { $0.tensors[0].type = 99 }
    expectFault("tensor t: Q4_K [2, 32]: rows are not a multiple") { $0.tensors[0].type = 12 }
    expectFault("tensor t: its offset 8") { $0.tensors[0].offset = 8 }
    expectFault("tensor t: F32 [2, 32] needs 256 bytes at offset 32") { $0.tensors[0].offset = 32 }
    expectFault("only 256 bytes of data") { $0.tensors[0].offset = .max - 31 }
    expectFault("beyond 63 bits") { $0.tensors[0].shape = [1 << 40, 1 << 40] }
    expectFault("dimension of length") { $0.tensors[0].shape = [0, 3] }
    expectFault("has 5 dimensions") { $0.tensors[0].shape = [1, 1, 1, 1, 1] }
    expectFault("has 0 dimensions") { $0.tensors[0].shape = [] }
    expectFault("has 0 bytes") { $0.metadata.append(("", .bool(true))) }
    let error = #expect(throws: FileError.self) { try gguf(Array("PK\u{3}\u{4}....".utf8)) }
    #expect(error?.fault.contains("not a GGUF file") == true)
  }

  @Test("cut at any byte, or with any byte changed, are refused or read; never worse")
  func damage() throws {
    var writer = TinyLlama.gguf(seed: 1)
    writer.set("texts", .strings(["one", "two"]))
    writer.set("nested", .array(9, [.array(8, [.string("x")]), .array(3, [.int16(5)])]))
    let whole = writer.bytes()
    _ = try LlamaWeights(try gguf(whole))
    func readAll(_ bytes: [UInt8]) {
      guard let file = try? gguf(bytes) else { return }
      for value in file.metadata.values {
        _ = try? value.array?.values()
        _ = try? value.array?.strings()
        _ = try? value.array?.integers()
      }
      for tensor in file.tensors { _ = tensor.float32() }
      _ = try? LlamaWeights(file)
    }
    let headerCount = 2200
    for count in 0..<whole.count where count < headerCount || count % 61 == 0 {
      #expect(throws: FileError.self) { try gguf(Array(whole[..<count])) }
    }
    for index in 0..<headerCount {
      for mask: UInt8 in [1, 0x80, 0xFF] {
        var changed = whole
        changed[index] ^= mask
        readAll(changed)
      }
    }
  }
}
