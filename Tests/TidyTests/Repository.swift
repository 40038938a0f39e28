import Foundation

/// The files of this repository that people read and write.
enum Repository {
  /// A file with its path from the repository's root.
  struct File: Sendable {
    let path: String
    let text: String
    var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
  }

  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// Swift and C of the product.
  static let product = files(
    in: ["Sources", "serve", "training"], withExtensions: ["swift", "c", "h"])
  /// Swift of the tests, and of the examples.
  static let tests = files(in: ["Tests", "examples"], withExtensions: ["swift"])
  /// Pages that people wrote: not those that scripts make from measurements.
  static let pages =
    files(in: ["docs"], withExtensions: ["md"]).filter { !$0.path.contains("docs/results") }
    + ["README.md", "CONTRIBUTING.md"].compactMap(file)

  private static func files(in folders: [String], withExtensions extensions: [String]) -> [File] {
    folders.flatMap { folder -> [File] in
      let names = FileManager.default.enumerator(atPath: root.appending(path: folder).path())
      return (names?.compactMap { $0 as? String } ?? [])
        .filter { name in
          extensions.contains { name.hasSuffix(".\($0)") } && !name.contains(".build")
        }
        .sorted().compactMap { file("\(folder)/\($0)") }
    }
  }

  private static func file(_ path: String) -> File? {
    (try? String(contentsOf: root.appending(path: path), encoding: .utf8)).map {
      File(path: path, text: $0)
    }
  }
}
