internal import Glibc

/// The bytes of a file, for as long as the object lives; immutable.
public final class FileBytes: Sendable {
  /// The file's path, for messages.
  public let path: String
  /// The file's text, with what is no UTF-8 replaced.
  public var text: String { String(decoding: bytes, as: UTF8.self) }
  /// All bytes of the file, for as long as the object is held in a variable: a temporary is gone
  /// before its bytes are read.
  public nonisolated(unsafe) let bytes: UnsafeRawBufferPointer  // never written after init
  private let isMapped: Bool

  private init(path: String, bytes: UnsafeRawBufferPointer, isMapped: Bool) {
    self.path = path
    self.bytes = bytes
    self.isMapped = isMapped
  }

  deinit {
    guard let start = bytes.baseAddress else { return }
    if isMapped {
      munmap(UnsafeMutableRawPointer(mutating: start), bytes.count)
    } else {
      free(UnsafeMutableRawPointer(mutating: start))
    }
  }

  /// Maps a file that nobody shortens while it is mapped: a page beyond the end kills the process.
  ///
  /// - Throws: `FileError` if the file cannot be opened or mapped.
  public static func map(_ path: String) throws(FileError) -> FileBytes {
    let (descriptor, count) = try open(path)
    defer { close(descriptor) }
    guard count > 0 else {
      return FileBytes(path: path, bytes: .init(start: nil, count: 0), isMapped: true)
    }
    let start = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0)
    guard let start, start != MAP_FAILED else { throw FileError.system(path, "cannot be mapped") }
    return FileBytes(
      path: path, bytes: UnsafeRawBufferPointer(start: start, count: count), isMapped: true)
  }

  /// Gives back the memory of a part that was read and is not soon read again, where the file is
  /// mapped; its bytes can still be read.
  package func forget(_ range: Range<Int>) {
    guard isMapped, let start = bytes.baseAddress else { return }
    let page = sysconf(Int32(_SC_PAGESIZE))
    let first = range.lowerBound / page * page
    madvise(
      UnsafeMutableRawPointer(mutating: start + first), range.upperBound - first, MADV_DONTNEED)
  }

  /// Reads a whole file into memory of our own, which nobody else can change.
  ///
  /// - Throws: `FileError` if the file cannot be read, is longer than `byteCountMax`, or
  ///   shrinks while it is read.
  public static func read(
    _ path: String, byteCountMax: Int = .max
  ) throws(FileError) -> FileBytes {
    let (descriptor, count) = try open(path)
    defer { close(descriptor) }
    guard count <= byteCountMax else {
      throw FileError(
        file: path, kind: .tooLarge(limit: byteCountMax),
        fault: "is \(count) bytes long, at most \(byteCountMax) are expected")
    }
    // A sparse file can claim any size; to ask for more memory than there is would end the process.
    let memory = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
    var block: UnsafeMutableRawPointer?
    guard count <= memory, posix_memalign(&block, 64, max(count, 1)) == 0, let block else {
      throw FileError(
        file: path, kind: .outOfMemory,
        fault: "is \(count) bytes long, more than fits this machine's memory")
    }
    let buffer = UnsafeMutableRawBufferPointer(start: block, count: count)
    var filled = 0
    while filled < count {
      let got = Glibc.read(descriptor, buffer.baseAddress! + filled, count - filled)
      if got < 0 && errno == EINTR { continue }
      guard got > 0 else {
        let failure =
          got < 0
          ? FileError.system(path)
          : FileError(
            file: path, kind: .changed,
            fault: "ended after \(filled) of \(count) bytes while it was read")
        free(block)
        throw failure
      }
      filled += got
    }
    return FileBytes(path: path, bytes: UnsafeRawBufferPointer(buffer), isMapped: false)
  }

  /// A copy of bytes that are in memory already, under a name for messages.
  ///
  /// - Throws: `FileError` of kind `outOfMemory`.
  public static func copy(
    _ source: UnsafeRawBufferPointer, named path: String
  ) throws(FileError) -> FileBytes {
    guard let block = malloc(max(source.count, 1)) else {
      throw FileError(
        file: path, kind: .outOfMemory,
        fault: "needs \(source.count) bytes of memory, more than is free")
    }
    let buffer = UnsafeMutableRawBufferPointer(start: block, count: source.count)
    buffer.copyMemory(from: source)
    return FileBytes(path: path, bytes: UnsafeRawBufferPointer(buffer), isMapped: false)
  }

  private static func open(_ path: String) throws(FileError) -> (Int32, Int) {
    // Without waiting: to open a named pipe would block until somebody writes to it.
    let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw FileError.system(path, "cannot be opened") }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      defer { close(descriptor) }
      throw FileError.system(path, "cannot be examined")
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw FileError(file: path, fault: "is not a regular file")
    }
    return (descriptor, Int(status.st_size))
  }
}
