import Foundation
import GranuleFiles
import TestSupport
import Testing

@Suite("A file's fingerprint")
struct FingerprintTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  private func write(_ bytes: [UInt8], _ name: String) throws {
    try bytes.withBytes { (bytes) throws(FileError) in
      try DurableFile.write([bytes], to: path(name))
    }
  }

  @Test("differs once the contents do, whatever the evidence")
  func evidence() throws {
    // Fewer bytes than a sample has, and more.
    for count in [0, 100, 1 << 20] {
      var bytes = [UInt8](repeating: 7, count: count)
      try write(bytes, "file")
      func prints() throws -> [Fingerprint] {
        [
          try #require(Fingerprint(statusOf: path("file"))),
          Fingerprint(sampling: try FileBytes.map(path("file"))),
          try Fingerprint(digesting: path("file")),
        ]
      }
      let before = try prints()
      #expect(try prints() == before)
      // The first, last and added byte are in every sample.
      if count > 0 {
        bytes[count - 1] = 8
        try write(bytes, "file")
        #expect(try zip(prints(), before).allSatisfy { $0 != $1 })
      }
      try write([7] + bytes, "file")
      #expect(try zip(prints(), before).allSatisfy { $0 != $1 })
    }
    #expect(Fingerprint(statusOf: path("none")) == nil)
    let error = #expect(throws: FileError.self) { try Fingerprint(digesting: path("none")) }
    #expect(error?.kind == .notFound)
  }

  @Test("of several files tells which was added, changed or removed")
  func changes() {
    func file(_ name: String, _ digest: String) -> Fingerprint {
      Fingerprint(path: name, evidence: .digest(sha256: digest))
    }
    let begun = [file("a", "1"), file("b", "2")]
    #expect(Fingerprint.changes(from: begun, to: begun).isEmpty)
    #expect(
      Fingerprint.changes(from: begun, to: [file("a", "3"), file("c", "2")])
        == ["a has other contents", "c was added", "b is gone"])
    #expect(
      Fingerprint.changes(from: begun, to: begun.reversed()) == ["the order of the files differs"])
  }
}

@Suite("A folder's lock")
struct FolderLockTests {
  @Test("keeps out whoever does not wait, and lets in who waits once it goes")
  func exclusive() async throws {
    let folder = try TemporaryFolder()
    var lock: FolderLock? = try FolderLock(folder.path)
    #expect(lock?.isEnforced == true)
    let error = #expect(throws: FileError.self) { try FolderLock(folder.path) }
    #expect(error?.kind == .busy)
    #expect(error?.description == "\(folder.path): another process is at work in it")
    let waiter = Task.detached { [path = folder.path] in
      try FolderLock(path, waits: true).isEnforced
    }
    lock = nil
    #expect(try await waiter.value)
    _ = try FolderLock(folder.path)
  }

  @Test("needs a folder")
  func missing() throws {
    let folder = try TemporaryFolder()
    let error = #expect(throws: FileError.self) { try FolderLock("\(folder.path)/none") }
    #expect(error?.kind == .notFound)
  }
}
