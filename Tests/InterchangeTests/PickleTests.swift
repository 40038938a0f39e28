import Foundation
import GranuleTensors
import TestSupport
import Testing
@testable import GranuleInterchange

@Suite("A pickle")
struct PickleTests {
  let reader = PickleReader(
    knownGlobals: ["collections OrderedDict"],
    persistent: { _ throws(PickleError) in throw PickleError(description: "no storages here") },
    call: { name, _ throws(PickleError) in throw PickleError(description: "calls \(name)") })

  func expectFault(_ bytes: [UInt8], _ naming: String) {
    do throws(PickleError) {
      _ = try reader.read(bytes)
      Issue.record("\(naming) is expected")
    } catch { #expect(error.description.contains(naming), "\(error)") }
  }

  @Test("of each protocol that torch has used is read as data")
  func values() throws {
    // pickle.dumps({"a": (1, 300, -2, True, None), "b": [2.5, 1 << 40]}, protocol=2)
    let protocol2: [UInt8] =
      [0x80, 2] + Array("}q\u{0}(X".utf8) + [1, 0, 0, 0] + Array("aq\u{1}(K".utf8) + [1]
      + Array("M".utf8) + [0x2C, 1] + Array("J".utf8) + [0xFE, 0xFF, 0xFF, 0xFF, 0x88]
      + Array("Ntq\u{2}X".utf8) + [1, 0, 0, 0] + Array("bq\u{3}]q\u{4}(G".utf8)
      + [0x40, 4, 0, 0, 0, 0, 0, 0, 0x8A, 6, 0, 0, 0, 0, 0, 1] + Array("eu.".utf8)
    let members = try #require(try reader.read(protocol2).members)
    #expect(members.map(\.key.string) == ["a", "b"])
    let tuple = try #require(members[0].value.tuple)
    #expect(tuple.map(\.integer) == [1, 300, -2, nil, nil])
    #expect(tuple[3].bool == true)
    guard case .list(let list) = members[1].value.kind, case .real(let real) = list.values[0].kind
    else {
      Issue.record("b is a list of a real and an integer")
      return
    }
    #expect(real == 2.5 && list.values[1].integer == 1 << 40)
  }

  @Test("that does anything else is refused")
  func refused() {
    let print = Array("cbuiltins\nprint\n".utf8)
    expectFault([0x80, 2] + print + Array(")R.".utf8), "builtins.print")
    expectFault(
      [0x80, 4, 0x8C, 2] + Array("os".utf8) + [0x8C, 6] + Array("system".utf8) + [0x93],
      "os.system")
    // REDUCE of what is no global, BUILD of what is no dictionary, opcodes of other pickles.
    expectFault([0x80, 2] + Array("K\u{1})R.".utf8), "call")
    expectFault([0x80, 2] + Array("K\u{1}}b.".utf8), "attributes")
    for opcode in Array("iIoPdlpgSV2".utf8) + [0x81, 0x82, 0x92, 0x97, 0xFF] {
      expectFault([0x80, 2, opcode] + Array("x\ny\n.".utf8), "opcode")
    }
    expectFault([], "ends early")
    expectFault([0x80, 2, 0x2E], "stack is empty")
    expectFault([0x80, 9, 0x4E, 0x2E], "protocol is 9")
    expectFault([0x80, 2] + Array("X".utf8) + [0xFF, 0xFF, 0xFF, 0xFF, 0x61], "ends early")
    expectFault([0x80, 2, 0x8A, 0xFF], "at most 64")
    expectFault([0x80, 2] + Array("h\u{7}.".utf8), "refers to object 7")
    expectFault([0x80, 2] + Array("}q\u{0}h\u{0}\u{86}.".utf8), "shares")
    expectFault([0x80, 2] + Array("(K\u{1}u.".utf8), "key has no value")
  }

  @Test("nested deeply, or as long as can be, takes bounded time and memory")
  func bounded() throws {
    expectFault(
      [0x80, 2] + [UInt8](repeating: 0x29, count: 1) + [UInt8](repeating: 0x85, count: 1 << 20),
      "nested deeper")
    // One item after the other into one dictionary, remembered each time.
    var long: [UInt8] = [0x80, 2] + Array("}".utf8)
    for _ in 0..<1 << 19 { long += Array("NNsq\u{0}".utf8) }
    let value = try reader.read(long + Array(".".utf8))
    #expect(value.members?.count == 1 << 19)
  }
}
