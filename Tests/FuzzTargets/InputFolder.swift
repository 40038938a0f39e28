internal import Foundation
internal import TestSupport

/// A folder of one input's own, for readers that want a path.
struct InputFolder {
  private let folder: TemporaryFolder

  /// Its path.
  var path: String { folder.path }

  /// An empty folder.
  init() throws { folder = try TemporaryFolder() }

  /// Writes a file, and makes its folder if that is missing.
  func write(_ bytes: UnsafeRawBufferPointer, to name: String) throws {
    let url = URL(fileURLWithPath: "\(path)/\(name)")
    if name.contains("/") {
      try FileManager.default.createDirectory(
        at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    }
    try Data(bytes).write(to: url)
  }

  /// Writes a file, and makes its folder if that is missing.
  func write(_ bytes: [UInt8], to name: String) throws {
    try bytes.withUnsafeBytes { try write($0, to: name) }
  }

  /// The bytes of a file.
  func read(_ name: String) throws -> [UInt8] {
    try Array(Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)")))
  }
}
