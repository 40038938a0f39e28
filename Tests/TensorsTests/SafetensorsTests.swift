import Foundation
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite("safetensors files")
struct SafetensorsTests {
  let folder: TemporaryFolder
  let path: String

  init() throws {
    folder = try TemporaryFolder()
    path = "\(folder.path)/a.safetensors"
  }

  func writeExample() throws {
    let floats = FloatStorage([1, -2.5, Float.leastNonzeroMagnitude, 0, 5, 6])
    try [Int64(-1), 1 << 40].withBytes { (integers) throws(FileError) in
      try [UInt16(0x3C00), 0xC100].withBytes { (halves) throws(FileError) in
        try SafetensorsWriter.write(
          [
            .init("halves", .float16, [2], halves), .init("floats", [2, 3], floats),
            .init("integers", .int64, [2, 1], integers),
          ], metadata: ["a \"key\"": "ä\nvalue"], to: path)
      }
    }
  }

  @Test("are read back as they were written, every tensor aligned")
  func roundTrip() throws {
    try writeExample()
    for file in [try FileBytes.map(path), try FileBytes.read(path)] {
      let read = try SafetensorsFile(file)
      #expect(read.metadata == ["a \"key\"": "ä\nvalue"])
      #expect(Set(read.tensors.map(\.name)) == ["halves", "floats", "integers"])
      #expect(try read.tensor("floats").shape == [2, 3])
      #expect(
        try read.tensor("floats").float32().array == [
          1, -2.5, Float.leastNonzeroMagnitude, 0, 5, 6,
        ])
      #expect(try read.tensor("halves").float32().array == [1, -2.5])
      #expect(try read.tensor("integers").integers() == [-1, 1 << 40])
      #expect(throws: FileError.self) { try read.tensor("integers").float32() }
      #expect(throws: FileError.self) { try read.tensor("floats").integers() }
      let error = #expect(throws: FileError.self) { try read.tensor("other") }
      #expect(error?.description.contains("floats") == true)
      for tensor in read.tensors {
        let address = UInt(bitPattern: tensor.bytes.baseAddress)
        #expect(address % UInt(tensor.type.byteCount) == 0)
      }
    }
  }

  @Test("cut at any byte, or with any byte changed, are refused or read; never worse")
  func damage() throws {
    try writeExample()
    let whole = try FileBytes.read(path)
    for count in 0..<whole.bytes.count {
      let part = try FileBytes.copy(
        UnsafeRawBufferPointer(rebasing: whole.bytes[..<count]), named: "cut")
      #expect(throws: FileError.self) { try SafetensorsFile(part) }
    }
    var generator = SeededGenerator(seed: 17)
    var refused = 0
    for _ in 0..<4000 {
      var bytes = Array(whole.bytes)
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(
          in: 0...255, using: &generator)
      }
      let damaged = try bytes.withBytes { (bytes) throws(FileError) in
        try FileBytes.copy(bytes, named: "damaged")
      }
      do throws(FileError) {
        for tensor in try SafetensorsFile(damaged).tensors {
          #expect(tensor.bytes.count == tensor.count * tensor.type.byteCount)
        }
      } catch {
        refused += 1
      }
    }
    #expect(refused > 2000)
  }

  @Test("that cannot be written leave nothing behind, and say why")
  func unwritable() throws {
    let target = "\(folder.path)/no/such/folder.safetensors"
    let error = #expect(throws: FileError.self) {
      try SafetensorsWriter.write([.init("a", [1], FloatStorage([1]))], to: target)
    }
    #expect(error?.description.contains("No such file") == true)
    // A device is neither written to nor removed; a link stands for it here.
    let null = "\(folder.path)/null"
    try FileManager.default.createSymbolicLink(atPath: null, withDestinationPath: "/dev/null")
    for write in [
      { try SafetensorsWriter.write([.init("a", [1], FloatStorage([1]))], to: null) },
      { try DurableFile.replace(null, with: "text") },
    ] as [() throws -> Void] {
      let error = #expect(throws: FileError.self) { try write() }
      #expect(error?.description.contains("not a regular file") == true)
      #expect(try FileManager.default.destinationOfSymbolicLink(atPath: null) == "/dev/null")
    }
  }

  @Test("that cannot be written whole leave those that were there, and no neighbour")
  func replacedWholeOrNot() throws {
    let path = "\(folder.path)/codes.safetensors"
    func write(_ value: Float, shouldStop: Bool = false) throws {
      let values = FloatStorage([Float](repeating: value, count: 8))
      try SafetensorsWriter.write(
        [.init("a", [8], values)], to: path,
        progress: TransferProgress(total: 32, shouldStop: { shouldStop }))
    }
    func value() throws -> Float {
      try SafetensorsFile(FileBytes.read(path)).tensor("a").float32().array[7]
    }
    try write(1)
    #expect(throws: FileError.self) { try write(2, shouldStop: true) }
    #expect(try value() == 1)
    try write(3)
    #expect(try value() == 3)
    #expect(try Folder.entries(of: folder.path) == ["codes.safetensors"])
    // Through a link, which stays one.
    let link = "\(folder.path)/link"
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: path)
    try DurableFile.replace(link, with: "text")
    #expect(try FileManager.default.destinationOfSymbolicLink(atPath: link) == path)
    #expect(try FileBytes.read(path).text == "text")
  }

  @Test("that are named pipes, folders or beyond all memory are refused at once")
  func notReadable() throws {
    let pipe = "\(folder.path)/pipe"
    #expect(mkfifo(pipe, 0o600) == 0)
    for (path, naming) in [(pipe, "regular file"), (folder.path, "regular file")] {
      let error = #expect(throws: FileError.self) { try FileBytes.read(path) }
      #expect(error?.description.contains(naming) == true)
      #expect(throws: FileError.self) { try FileBytes.map(path) }
    }
    let sparse = "\(folder.path)/sparse"
    #expect(FileManager.default.createFile(atPath: sparse, contents: nil))
    #expect(truncate(sparse, 4 << 40) == 0)
    let error = #expect(throws: FileError.self) { try FileBytes.read(sparse) }
    #expect(error?.description.contains("memory") == true)
  }
}
