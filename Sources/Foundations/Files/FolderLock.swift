internal import Glibc

/// Keeps other processes out of a folder, for as long as the object lives; a process that dies loses
/// its locks.
package final class FolderLock: Sendable {
  /// Whether the file system has locks. Some network file systems have none: on those the lock keeps
  /// nobody out.
  package let isEnforced: Bool
  private let descriptor: Int32

  /// Locks a folder, at once or, if `waits`, when the process that holds it lets go.
  ///
  /// - Throws: `FileError` of kind `busy` if another process holds it, otherwise with the system's
  ///   reason.
  package init(_ folder: String, waits: Bool = false) throws(FileError) {
    let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw FileError.system(folder) }
    let operation = waits ? LOCK_EX : LOCK_EX | LOCK_NB
    var code = flock(descriptor, operation)
    while code != 0, errno == EINTR { code = flock(descriptor, operation) }
    let lacksLocks = code != 0 && [ENOLCK, ENOSYS, EOPNOTSUPP].contains(errno)
    guard code == 0 || lacksLocks else {
      defer { close(descriptor) }
      guard errno == EWOULDBLOCK else { throw FileError.system(folder) }
      throw FileError(file: folder, kind: .busy, fault: "another process is at work in it")
    }
    self.descriptor = descriptor
    isEnforced = !lacksLocks
  }

  deinit { close(descriptor) }
}
