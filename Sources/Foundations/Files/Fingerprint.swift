internal import Glibc

/// What tells whether a file has changed: its path, and evidence of its contents.
package struct Fingerprint: Equatable, Sendable {
  /// How a file's contents are known.
  package enum Evidence: Equatable, Sendable {
    /// What the file system says: costs no reading, holds on one machine only.
    case status(byteCount: Int, inode: UInt64, seconds: Int, nanoseconds: Int)
    /// Its size and the SHA-256 of a sample of its bytes: finds a file that was written again.
    case sample(byteCount: Int, sha256: String)
    /// The SHA-256 of all its bytes.
    case digest(sha256: String)
  }

  /// The file's path, as it was named.
  package var path: String
  /// How its contents are known.
  package var evidence: Evidence

  /// The SHA-256 among the evidence, 64 hexadecimal digits; nil if there is none.
  package var sha256: String? {
    switch evidence {
    case .status: nil
    case .sample(_, let sha256), .digest(let sha256): sha256
    }
  }

  /// Evidence that was recorded earlier.
  package init(path: String, evidence: Evidence) {
    self.path = path
    self.evidence = evidence
  }

  /// The file by its status; nil if there is none. A link stands for itself.
  package init?(statusOf path: String) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return nil }
    self.init(
      path: path,
      evidence: .status(
        byteCount: Int(status.st_size), inode: UInt64(status.st_ino),
        seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec))
  }

  /// The number of stretches in a sample, and the bytes of each.
  private static let (stretches, stretchBytes) = (16, 4096)

  /// The file by stretches at even distances, or all its bytes if they are few.
  package init(sampling file: FileBytes) {
    let sha256 = withExtendedLifetime(file) {
      let bytes = file.bytes
      let last = bytes.count - Self.stretchBytes
      guard last > Self.stretches * Self.stretchBytes else { return Digest.sha256(bytes) }
      var sample: [UInt8] = []
      for number in 0..<Self.stretches {
        let start = last / (Self.stretches - 1) * number
        sample += bytes[start..<start + Self.stretchBytes]
      }
      return sample.withUnsafeBytes { Digest.sha256($0) }
    }
    self.init(
      path: file.path, evidence: .sample(byteCount: file.bytes.count, sha256: sha256))
  }

  /// The file by all its bytes.
  ///
  /// - Throws: `FileError` if it cannot be read.
  package init(digesting path: String) throws(FileError) {
    let sha256 = Digest.sha256(try FileBytes.map(path))
    self.init(path: path, evidence: .digest(sha256: sha256))
  }

  /// How `new` differs from `old`, each difference in words; empty if it does not. Both have
  /// evidence of one kind.
  package static func changes(from old: [Fingerprint], to new: [Fingerprint]) -> [String] {
    let before = Dictionary(old.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    let paths = Set(new.map(\.path))
    let changes =
      new.compactMap { file -> String? in
        guard let known = before[file.path] else { return "\(file.path) was added" }
        return known == file ? nil : "\(file.path) has other contents"
      } + old.filter { !paths.contains($0.path) }.map { "\($0.path) is gone" }
    return changes.isEmpty && old != new ? ["the order of the files differs"] : changes
  }
}
