internal import Glibc
internal import GranuleFiles
internal import GranuleTensors

/// What a version's files look like from outside: names, sizes, times and places. Equal stamps:
/// nothing has changed since.
public struct VersionStamp: Equatable, Sendable {
  private struct File: Equatable, Sendable {
    var name: String
    var byteCount: Int
    var inode: UInt64
    var seconds: Int
    var nanoseconds: Int
  }
  private var files: [File] = []

  /// Files that are looked at; a version has far fewer.
  private static let filesMax = 64

  init(folder: String) {
    for name in ((try? Folder.entries(of: folder)) ?? []).prefix(Self.filesMax) {
      var status = stat()
      guard lstat("\(folder)/\(name)", &status) == 0 else { continue }
      files.append(
        File(
          name: name, byteCount: Int(status.st_size), inode: UInt64(status.st_ino),
          seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec))
    }
  }
}

extension ModelRepository {
  /// The stamp of a version's files now; an empty one where there are none.
  public func stamp(of name: String, version: UInt64) -> VersionStamp {
    VersionStamp(folder: "\(path)/\(name)/\(version)")
  }
}
