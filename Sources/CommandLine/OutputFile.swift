import Foundation
import GranuleFiles

/// A file that a command writes when its work is done.
package enum OutputFile {
  /// Checks before the work begins that a file can be put at `path`.
  ///
  /// - Throws: `CommandError.output` that names the option.
  package static func requireWritable(_ path: String, _ option: String) throws {
    let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
    guard !path.isEmpty, Folder.isFolder(folder), access(folder, W_OK | X_OK) == 0 else {
      throw CommandError.output(
        "\(option): \(path.isEmpty ? "\"\"" : path) cannot be written; name a file in a folder that "
          + "exists and that you may write to")
    }
    do { try DurableFile.requireReplaceable(path) } catch {
      throw CommandError.output("\(option): \(error)")
    }
  }
}
