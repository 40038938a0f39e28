import Glibc

/// What a folder's files look like from outside: names, sizes, times and places. Equal stamps: nothing has changed.
struct FolderStamp: Equatable {
  private struct File: Equatable {
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
    guard let directory = opendir(folder) else { return }
    defer { closedir(directory) }
    while files.count < Self.filesMax, let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      var status = stat()
      guard name != ".", name != "..", lstat("\(folder)/\(name)", &status) == 0 else { continue }
      files.append(
        File(
          name: name, byteCount: Int(status.st_size), inode: UInt64(status.st_ino),
          seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec))
    }
    files.sort { $0.name < $1.name }
  }
}
