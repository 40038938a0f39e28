import Foundation
import FuzzTargets
import Testing

@Suite("Hostile input")
struct CorpusTests {
  static let corpora = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("Corpora")

  @Test(
    "of the corpora is read or refused by an error of its type, as are its beginnings",
    arguments: FuzzTarget.all.map(\.name))
  func replay(name: String) throws {
    let target = try #require(FuzzTarget.all.first { $0.name == name })
    let folder = Self.corpora.appendingPathComponent(name)
    let files = try FileManager.default.contentsOfDirectory(
      at: folder, includingPropertiesForKeys: nil)
    #expect(!files.isEmpty, "scripts/fuzz \(name) makes a corpus")
    for file in files {
      let bytes = try Data(contentsOf: file)
      #expect(throws: Never.self, "\(name)/\(file.lastPathComponent)") {
        try bytes.withUnsafeBytes { try target.run($0) }
      }
    }
    for (number, seed) in try target.seeds().enumerated() {
      for part in 0...8 {
        #expect(throws: Never.self, "\(name): \(part)/8 of seed \(number)") {
          try seed[..<(seed.count * part / 8)].withUnsafeBytes { try target.run($0) }
        }
      }
    }
  }

  @Test("has a corpus for each target and no other")
  func folders() throws {
    let folders = try FileManager.default.contentsOfDirectory(atPath: Self.corpora.path)
    #expect(folders.sorted() == FuzzTarget.all.map(\.name).sorted())
  }
}
