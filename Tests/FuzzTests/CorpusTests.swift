import Foundation
import FuzzTargets
import Testing

@Suite("Hostile input")
struct CorpusTests {
  static let corpora = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("Corpora")

  @Test(
    "of the corpora is accepted or refused by an error of its type, as are beginnings of seeds",
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
        try bytes.withUnsafeBytes { _ = try target.run($0) }
      }
    }
    for (number, seed) in try target.seeds().enumerated() {
      for part in 0..<8 {
        #expect(throws: Never.self, "\(name): \(part)/8 of seed \(number)") {
          try seed.bytes[..<(seed.bytes.count * part / 8)].withUnsafeBytes {
            _ = try target.run($0)
          }
        }
      }
    }
  }

  @Test(
    "each reader accepts the seeds that are sound, whole, and refuses those that are not",
    arguments: FuzzTarget.all.map(\.name))
  func verdicts(name: String) throws {
    let target = try #require(FuzzTarget.all.first { $0.name == name })
    let seeds = try target.seeds()
    for (number, seed) in seeds.enumerated() {
      let verdict = try seed.bytes.withUnsafeBytes { try target.run($0) }
      if let expected = seed.verdict { #expect(verdict == expected, "\(name): seed \(number)") }
    }
    #expect(seeds.contains { $0.verdict == .accepted })
    // Cut short, a seed must not pass for the whole of it; text may end with a line's end, and an
    // unfinished frame waits for more.
    let verdict = try seeds[0].bytes.dropLast(2).withUnsafeBytes { try target.run($0) }
    if name != "frames" { #expect(verdict == .refused, "\(name): seed 0 without its end") }
  }

  @Test("has a corpus for each target and no other")
  func folders() throws {
    let folders = try FileManager.default.contentsOfDirectory(atPath: Self.corpora.path)
    #expect(folders.sorted() == FuzzTarget.all.map(\.name).sorted())
  }
}
