internal import CLibZip
internal import Glibc
internal import GranuleFiles
internal import GranuleTensors

/// A zip archive, read by libzip: deflated or stored, with or without zip64; every entry's CRC-32 is
/// checked once it was read to its end.
final class ZipArchive {
  /// A file in the archive.
  struct Entry {
    let name: String
    /// Its size as the directory claims it, in bytes; what is read is checked against it.
    let byteCount: Int
    fileprivate let index: UInt64
  }

  /// The archive's path.
  let path: String
  /// Its files, in the order of the directory, no two of the same name.
  let entries: [Entry]
  private let archive: OpaquePointer

  /// Reads the directory.
  ///
  /// - Throws: `FileError` if the file cannot be read, is not a zip file, or has an entry that is
  ///   encrypted, named twice, or named by no UTF-8.
  init(_ path: String) throws(FileError) {
    var status = stat()
    guard stat(path, &status) == 0 else {
      throw FileError(
        file: path, fault: "cannot be opened: \(String(cString: strerror(errno)))")
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw FileError(file: path, fault: "is not a regular file")
    }
    var code: Int32 = 0
    guard let archive = zip_open(path, ZIP_RDONLY, &code) else {
      var error = zip_error_t()
      zip_error_init_with_code(&error, code)
      defer { zip_error_fini(&error) }
      throw FileError(
        file: path,
        fault: "cannot be read as a zip archive: \(String(cString: zip_error_strerror(&error)))")
    }
    do throws(FileError) { entries = try Self.entries(of: archive, path) } catch {
      zip_discard(archive)
      throw error
    }
    self.archive = archive
    self.path = path
  }

  deinit { zip_discard(archive) }

  private static func entries(
    of archive: OpaquePointer, _ path: String
  ) throws(FileError) -> [Entry] {
    var entries: [Entry] = []
    var names: Set<String> = []
    for index in 0..<UInt64(max(0, zip_get_num_entries(archive, 0))) {
      var status = zip_stat_t()
      guard zip_stat_index(archive, index, 0, &status) == 0, let bytes = status.name,
        status.valid & UInt64(ZIP_STAT_SIZE) != 0, let byteCount = Int(exactly: status.size)
      else {
        throw FileError(file: path, fault: "its zip entry \(index) has no name or size")
      }
      guard let name = String(validatingCString: bytes) else {
        throw FileError(file: path, fault: "its zip entry \(index) has a name of no UTF-8")
      }
      guard names.insert(name).inserted else {
        throw FileError(file: path, fault: "has the zip entry \(name) twice")
      }
      guard status.encryption_method == UInt16(ZIP_EM_NONE) else {
        throw FileError(file: path, fault: "its zip entry \(name) is encrypted")
      }
      entries.append(Entry(name: name, byteCount: byteCount, index: index))
    }
    return entries
  }

  /// The entry called `name`, or nil.
  subscript(name: String) -> Entry? { entries.first { $0.name == name } }

  /// Reads an entry from the byte `first` on; with the last of `count` bytes the rest is read, too,
  /// and checked.
  ///
  /// - Throws: `FileError` if the entry cannot be opened; what is returned throws one where
  ///   the entry is shorter or longer than it claims, or damaged.
  func source(
    of entry: Entry, from first: Int, count: Int
  ) throws(FileError) -> StoredTensor.Source {
    let reader = try ZipEntryReader(self, archive, entry)
    try reader.skip(first)
    var left = count
    return { (buffer) throws(FileError) in
      try reader.read(buffer)
      left -= buffer.count
      if left <= 0 { try reader.finish() }
    }
  }

  /// All bytes of an entry.
  ///
  /// - Throws: `FileError` if it claims more than `byteCountMax`, or cannot be read.
  func bytes(of entry: Entry, byteCountMax: Int) throws(FileError) -> [UInt8] {
    guard entry.byteCount <= byteCountMax else {
      throw FileError(
        file: path,
        fault: "its zip entry \(entry.name) has \(entry.byteCount) bytes, at most \(byteCountMax) "
          + "are expected")
    }
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: entry.byteCount, alignment: 8)
    defer { block.deallocate() }
    let reader = try ZipEntryReader(self, archive, entry)
    try reader.read(block)
    try reader.finish()
    return Array(block)
  }

  fileprivate func fault(_ entry: Entry, _ text: String) -> FileError {
    FileError(file: path, fault: "its zip entry \(entry.name) \(text)")
  }
}

/// An entry that is read from its beginning to its end.
private final class ZipEntryReader {
  private let archive: ZipArchive
  private let entry: ZipArchive.Entry
  private let file: OpaquePointer

  init(
    _ archive: ZipArchive, _ handle: OpaquePointer, _ entry: ZipArchive.Entry
  ) throws(FileError) {
    guard let file = zip_fopen_index(handle, entry.index, 0) else {
      throw archive.fault(entry, "cannot be read: \(String(cString: zip_strerror(handle)))")
    }
    self.archive = archive
    self.entry = entry
    self.file = file
  }

  deinit { zip_fclose(file) }

  func read(_ buffer: UnsafeMutableRawBufferPointer) throws(FileError) {
    var filled = 0
    while filled < buffer.count {
      let got = try take(UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
      guard got > 0 else { throw archive.fault(entry, "ends before its \(entry.byteCount) bytes") }
      filled += got
    }
  }

  func skip(_ count: Int) throws(FileError) {
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 8)
    defer { block.deallocate() }
    for start in stride(from: 0, to: count, by: block.count) {
      try read(UnsafeMutableRawBufferPointer(rebasing: block[..<min(block.count, count - start)]))
    }
  }

  /// Reads what is left, since libzip compares the checksum at the end.
  func finish() throws(FileError) {
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 8)
    defer { block.deallocate() }
    while try take(block) > 0 {}
  }

  private func take(_ buffer: UnsafeMutableRawBufferPointer) throws(FileError) -> Int {
    let got = zip_fread(file, buffer.baseAddress, UInt64(buffer.count))
    guard got >= 0 else {
      throw archive.fault(
        entry, "is damaged: \(String(cString: zip_error_strerror(zip_file_get_error(file))))")
    }
    return Int(got)
  }
}
