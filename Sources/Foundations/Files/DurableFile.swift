internal import Glibc

/// Writing files so that a crash leaves the old or the new, never a part.
public enum DurableFile {
  /// Writes `chunks` one after the other to a neighbour of `path`, flushes it to the disk and renames
  /// it to `path`: the old file or the new one is there, also after a failure, which leaves no
  /// neighbour. Only regular files are replaced, never devices, pipes or folders; of a link, what it
  /// leads to.
  ///
  /// That the new name lasts takes `flushFolder`, too.
  ///
  /// - Throws: `FileError` with the system's reason.
  public static func write(
    _ chunks: [UnsafeRawBufferPointer], to path: String
  ) throws(FileError) {
    try write(to: path) { (writeChunk) throws(FileError) in
      for chunk in chunks { try writeChunk(chunk) }
    }
  }

  /// Writes the chunks that `body` hands on, one after the other, as `write(_:to:)`.
  ///
  /// - Throws: `FileError` with the system's reason, or what `body` throws.
  package static func write(
    to path: String,
    _ body: (
      _ writeChunk: (UnsafeRawBufferPointer) throws(FileError) -> Void
    ) throws(FileError) -> Void
  ) throws(FileError) {
    try requireReplaceable(path)
    let target = target(of: path)
    let temporary = hiddenNeighbour(of: target)
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw FileError.system(path, "cannot be created") }
    do throws(FileError) {
      do throws(FileError) {
        try body { (chunk) throws(FileError) in
          var done = 0
          while done < chunk.count {
            let wrote = Glibc.write(descriptor, chunk.baseAddress! + done, chunk.count - done)
            if wrote < 0 && errno == EINTR { continue }
            guard wrote > 0 else { throw FileError.system(path, "cannot be written") }
            done += wrote
          }
        }
        guard fsync(descriptor) == 0 else { throw FileError.system(path, "cannot be flushed") }
      } catch {
        close(descriptor)
        throw error
      }
      guard close(descriptor) == 0 else { throw FileError.system(path, "cannot be closed") }
      guard rename(temporary, target) == 0 else {
        throw FileError.system(path, "cannot be replaced")
      }
    } catch {
      unlink(temporary)
      throw error
    }
  }

  /// Writes `text` to `path` as `write(_:to:)`, and flushes the folder.
  ///
  /// - Throws: `FileError` with the system's reason.
  public static func replace(_ path: String, with text: String) throws(FileError) {
    try Array(text.utf8).withBytes { (bytes) throws(FileError) in
      try write([bytes], to: path)
    }
    let target = target(of: path)
    try flushFolder(target.lastIndex(of: "/").map { String(target[..<$0]) } ?? ".")
  }

  /// Flushes a folder's entries to the disk, so that names made or changed in it last.
  ///
  /// - Throws: `FileError` with the system's reason.
  public static func flushFolder(_ path: String) throws(FileError) {
    let descriptor = open(path.isEmpty ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw FileError.system(path, "cannot be opened") }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw FileError.system(path, "cannot be flushed") }
  }

  /// The path that a link leads to; the path itself if it is not a link, or leads nowhere yet.
  private static func target(of path: String) -> String {
    guard let resolved = realpath(path, nil) else { return path }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  /// Hidden, so that whoever lists the folder takes it for no file of its own.
  private static func hiddenNeighbour(of path: String) -> String {
    let nameStart = path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex
    return path[..<nameStart] + "." + path[nameStart...] + ".new"
  }

  /// To write to a device would be pointless, and to remove it after a failure, ruinous.
  ///
  /// - Throws: `FileError` if there is something at `path` that is not a regular file.
  public static func requireReplaceable(_ path: String) throws(FileError) {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT != S_IFREG else { return }
    throw FileError(
      file: path, kind: .exists, fault: "is there already and is not a regular file")
  }
}

extension Array where Element: BitwiseCopyable {
  /// `withUnsafeBytes` with typed throws, which the standard library's lacks.
  public func withBytes<Result, Failure>(
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try withUnsafeBufferPointer { (buffer) throws(Failure) in
      try body(UnsafeRawBufferPointer(buffer))
    }
  }
}
