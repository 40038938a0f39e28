import Foundation
import GranuleFiles
import GranuleRun
import TestSupport
import Testing

@Suite("TensorBoard's event files")
struct EventFileTests {
  @Test("have the checksum that RFC 3720 gives")
  func checksum() {
    #expect(EventFile.crc32c(Array("123456789".utf8)) == 0xe306_9283)
    #expect(EventFile.crc32c([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
    #expect(EventFile.crc32c([]) == 0)
  }

  @Test("are the very bytes that TensorBoard's own writer makes")
  func bytes() throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/events"
    let file = try EventFile(path: path, seconds: 1.5)
    try file.append([("loss", 0.25), ("zero", 0), ("fvu/16", 0.5)], step: 7, seconds: 2.5)
    try file.append([], step: 8, seconds: 2.5)
    // make_event_file.py beside the fixture
    var fixture = #filePath
    fixture.removeLast("EventFileTests.swift".count)
    let expected = try Data(
      contentsOf: URL(fileURLWithPath: fixture + "Fixtures/event_file.tfevents"))
    let isSame = try Data(contentsOf: URL(fileURLWithPath: path)) == expected
    #expect(isSame)
  }
}
