import Foundation
import Testing

@Suite struct GeneratedCodeTests {
  @Test("the committed protobuf-c code is what the contract generates")
  func upToDate() throws {
    let repository = URL(filePath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
    let proto = repository.appending(path: "proto")
    let fresh = FileManager.default.temporaryDirectory
      .appending(path: "granule-proto-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: fresh) }
    let generate = Process()
    generate.executableURL = proto.appending(path: "generate")
    generate.arguments = [fresh.path]
    try generate.run()
    generate.waitUntilExit()
    try #require(
      generate.terminationStatus == 0,
      "proto/generate failed: install protoc-c (Debian package protobuf-c-compiler)")
    for file in [
      "granule.pb-c.c", "include/granule.pb-c.h", "event.pb-c.c", "include/event.pb-c.h",
    ] {
      let committed = try lines(proto.appending(path: "generated").appending(path: file))
      let generated = try lines(fresh.appending(path: file))
      // Compared beforehand: a failure would print both files.
      let isUpToDate = committed == generated
      #expect(isUpToDate, "\(file) is stale: run proto/generate and commit what it writes")
    }
  }

  /// A file's lines, but for those that hold the version of the generator.
  private func lines(_ file: URL) throws -> [Substring] {
    try String(contentsOf: file, encoding: .utf8).split(
      separator: "\n", omittingEmptySubsequences: false
    ).filter { !$0.contains("PROTOBUF_C_VERSION_NUMBER") && !$0.contains("_MIN_COMPILER_VERSION") }
  }
}
