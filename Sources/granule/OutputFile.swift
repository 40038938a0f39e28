import Foundation
import GranuleFiles
import GranuleTensors

/// A file that a command writes when its work is done.
enum OutputFile {
  /// Sees that a file can be put at `path`, while nothing has been computed yet.
  ///
  /// - Throws: `CommandError` that names the option.
  static func requireWritable(_ path: String, _ option: String) throws {
    let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
    guard !path.isEmpty, Folder.isFolder(folder), access(folder, W_OK | X_OK) == 0 else {
      throw CommandError(
        "\(option): \(path.isEmpty ? "\"\"" : path) cannot be written, is \(folder) a folder that "
          + "you may use?")
    }
    do { try DurableFile.requireReplaceable(path) } catch {
      throw CommandError("\(option): \(error)")
    }
  }
}
