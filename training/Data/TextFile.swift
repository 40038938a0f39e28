package import GranuleFiles
internal import GranuleTensors

/// A file of text, and what it held when it was harvested or a distillation began.
package struct TextFile: Equatable, Sendable {
  package var path: String
  /// Of its bytes, 64 hexadecimal digits.
  package var sha256: String

  /// The file as it is now.
  ///
  /// - Throws: `FileError` where it cannot be read.
  package init(reading path: String) throws(FileError) {
    self.path = path
    sha256 = Digest.sha256(try FileBytes.map(path))
  }

  /// nil where a member is missing.
  package init?(json: JSONValue) {
    guard let path = json["file"]?.string, let sha256 = json["sha256"]?.string else { return nil }
    (self.path, self.sha256) = (path, sha256)
  }

  package var json: JSONValue { ["file": .string(path), "sha256": .string(sha256)] }

  /// The files that paths stand for, folders among them, as they are now.
  ///
  /// - Throws: `TrainingError` or `FileError` where there is none, or one cannot be read.
  package static func read(_ paths: [String]) throws -> [TextFile] {
    try HarvestConfiguration.textFiles(paths).map { try TextFile(reading: $0) }
  }

  /// The first difference in `now`, nil where there is none.
  package static func change(from begun: [TextFile], to now: [TextFile]) -> String? {
    let (old, new) = (Set(begun.map(\.path)), Set(now.map(\.path)))
    if let file = now.first(where: { !old.contains($0.path) }) { return "\(file.path) was added" }
    if let file = begun.first(where: { !new.contains($0.path) }) { return "\(file.path) is gone" }
    let changed = zip(begun, now).first { $0 != $1 }
    return changed.map { "\($1.path) has other contents" }
  }
}
