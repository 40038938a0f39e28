import GranuleFiles
import GranuleTensors
import Testing

@Suite("NumPy files")
struct NumpyTests {
  func file(
    header: String, data: [UInt8], version: UInt8 = 1, magic: String = "NUMPY"
  ) throws(FileError) -> FileBytes {
    var bytes: [UInt8] = [0x93] + Array(magic.utf8) + [version, 0]
    let text = Array(header.utf8)
    bytes += [UInt8(text.count & 255), UInt8(text.count >> 8)]
    if version > 1 { bytes += [0, 0] }
    bytes += text + data
    return try bytes.withBytes { (bytes) throws(FileError) in
      try FileBytes.copy(bytes, named: "test.npy")
    }
  }

  @Test("of every floating-point width are read as float32")
  func floats() throws {
    let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }  \n"
    let half = try NumpyFile(file(header: header, data: [0x00, 0x3C, 0x00, 0xC1])).tensor
    #expect(half.shape == [1, 2])
    #expect(try half.float32().array == [1, -2.5])
    let header64 = "{\"shape\": (2,), 'fortran_order': False, 'descr': '<f8'}"
    let doubles = [1.5, -3.0].withBytes { Array($0) }
    let wide = try NumpyFile(file(header: header64, data: doubles, version: 2)).tensor
    #expect(try wide.float32().array == [1.5, -3])
  }

  @Test(
    "that are malformed are refused",
    arguments: [
      ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "'|O'"),
      ("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", "'>f4'"),
      ("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", "column-major"),
      ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "needs 8 bytes"),
      ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "63 bits"),
      ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "is not a dictionary"),
      ("{'descr': '<f4', 'fortran_order': False}", "is not a dictionary"),
      ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "is not a dictionary"),
      ("__import__('os')", "is not a dictionary"), ("", "is not a dictionary"),
    ])
  func malformed(header: String, naming: String) {
    let error = #expect(throws: FileError.self) {
      try NumpyFile(file(header: header, data: [0, 0, 0, 0]))
    }
    #expect(error?.description.contains(naming) == true, "\(String(describing: error))")
  }

  @Test("cut at any byte are refused")
  func truncated() throws {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    let whole = try file(header: header, data: [UInt8](repeating: 0, count: 8))
    _ = try NumpyFile(whole)
    for count in 0..<whole.bytes.count {
      let part = try FileBytes.copy(
        UnsafeRawBufferPointer(rebasing: whole.bytes[..<count]), named: "cut")
      #expect(throws: FileError.self) { try NumpyFile(part) }
    }
  }
}
