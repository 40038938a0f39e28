internal import Glibc
internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

extension ModelRepository {
  /// Abandoned folders of publishers that died begin with this; the next publisher removes them.
  private static let temporaryPrefix = ".publishing-"

  /// Publishes a dictionary folder as the next version of a model.
  ///
  /// The files are copied as they are into a hidden folder beside the versions, flushed, described
  /// by a manifest that is written last, and the folder is renamed into place. A crash at any point
  /// leaves the repository as it was; two publishers at once get a version each.
  ///
  /// - Parameters:
  ///   - folder: any dictionary folder that `SparseAutoencoder(folder:)` reads.
  ///   - keep: prune older versions so that at most this many remain; nil keeps all.
  /// - Returns: the version published.
  /// - Throws: `ModelRepositoryError`; nothing that was published before is changed.
  public func publish(
    folder: String, name: String, keep: Int? = nil
  ) throws(ModelRepositoryError) -> UInt64 {
    guard Self.isValidName(name) else { throw .invalidName(name) }
    // What cannot be loaded must not be published.
    do throws(FileError) { _ = try SparseAutoencoder(folder: folder) } catch {
      throw .invalidDictionary(error)
    }
    let modelFolder = "\(path)/\(name)"
    do throws(FileError) { try Folder.make(modelFolder) } catch {
      throw .system(error)
    }
    sweepAbandoned(in: modelFolder)

    let (temporary, lock) = try Self.makeTemporaryFolder(in: modelFolder)
    var isPublished = false
    defer {
      withExtendedLifetime(lock) { if !isPublished { Self.removeFolder(temporary) } }
    }

    var files: [(name: String, entry: Manifest.Entry)] = []
    do throws(FileError) {
      for fileName in DictionaryFiles.names where access("\(folder)/\(fileName)", F_OK) == 0 {
        let file = try FileBytes.read("\(folder)/\(fileName)")
        try DurableFile.write([file.bytes], to: "\(temporary)/\(fileName)")
        files.append(
          (
            fileName,
            Manifest.Entry(byteCount: file.bytes.count, sha256: Digest.sha256(file))
          ))
      }
      let manifest = Manifest(files: files, created: Self.timestamp())
      try DurableFile.replace("\(temporary)/\(Manifest.fileName)", with: manifest.text)
    } catch {
      throw .system(error)
    }

    let version = try claimVersion(for: temporary, name: name)
    isPublished = true
    do throws(FileError) {
      try DurableFile.flushFolder(modelFolder)
      try DurableFile.flushFolder(path)
    } catch {
      throw .system(error)
    }
    if let keep { try prune(name, keep: keep) }
    return version
  }

  /// The newest version of a model where it holds the very files of a folder, else nil: so that one who
  /// was killed before he could note what he had published does not publish it again.
  ///
  /// - Throws: `ModelRepositoryError`
  public func newestVersion(
    of name: String, holding folder: String
  ) throws(ModelRepositoryError) -> UInt64? {
    guard let version = try versions(of: name).last else { return nil }
    var digests: [String: String] = [:]
    for (fileName, entry) in try Manifest(folder: "\(path)/\(name)/\(version)").files {
      digests[fileName] = entry.sha256
    }
    for fileName in DictionaryFiles.names {
      guard access("\(folder)/\(fileName)", F_OK) == 0 else {
        if digests[fileName] == nil { continue }
        return nil
      }
      let file: FileBytes
      do throws(FileError) { file = try FileBytes.read("\(folder)/\(fileName)") } catch {
        throw .system(error)
      }
      guard digests[fileName] == Digest.sha256(file) else { return nil }
    }
    return version
  }

  /// Removes the oldest complete versions until at most `keep` (at least 1) remain. A server that
  /// has one of them in memory keeps answering from it.
  ///
  /// - Throws: `ModelRepositoryError`
  public func prune(_ name: String, keep: Int) throws(ModelRepositoryError) {
    for version in try versions(of: name).dropLast(max(keep, 1)) {
      let folder = "\(path)/\(name)/\(version)"
      // Hidden first, in one step: nobody finds a version that is half removed.
      let hidden = "\(path)/\(name)/\(Self.temporaryPrefix)pruned-\(version)-\(getpid())"
      guard rename(folder, hidden) == 0 else {
        if errno == ENOENT { continue }  // another publisher pruned it
        throw .system(FileError.system(folder))
      }
      Self.removeFolder(hidden)
    }
  }

  /// Renames the finished folder to the next free version, never over an existing one.
  private func claimVersion(
    for temporary: String, name: String
  ) throws(ModelRepositoryError) -> UInt64 {
    let modelFolder = "\(path)/\(name)"
    var taken: UInt64 = 0
    for entry in try entries(of: modelFolder) { taken = max(taken, Self.version(entry) ?? 0) }
    while true {
      let version = taken + 1
      guard version <= UInt64(Int64.max) else {
        throw .system(FileError(file: modelFolder, fault: "has no version number left"))
      }
      let target = "\(modelFolder)/\(version)"
      // A folder is never renamed over one that holds files, and a published one always does.
      if rename(temporary, target) == 0 { return version }
      guard errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR else {
        throw .system(FileError.system(target))
      }
      taken = version
    }
  }

  /// A new hidden folder with a lock, which tells other publishers that its maker lives.
  private static func makeTemporaryFolder(
    in modelFolder: String
  ) throws(ModelRepositoryError) -> (path: String, lock: FolderLock) {
    while true {
      let name = "\(temporaryPrefix)\(getpid())-\(UInt64.random(in: 0 ... .max))"
      let folder = "\(modelFolder)/\(name)"
      do throws(FileError) {
        guard mkdir(folder, 0o755) == 0 else { throw FileError.system(folder) }
        do throws(FileError) {
          let lock = try FolderLock(folder, waits: true)
          guard lock.isEnforced, access(folder, F_OK) == 0 else { throw FileError.system(folder) }
          return (folder, lock)
        } catch  where error.kind == .notFound {
          // Before it was locked, another publisher took it for abandoned.
          continue
        }
      } catch {
        throw .system(error)
      }
    }
  }

  private func sweepAbandoned(in modelFolder: String) {
    let names = (try? Folder.entries(of: modelFolder)) ?? []
    for name in names where name.hasPrefix(Self.temporaryPrefix) {
      let folder = "\(modelFolder)/\(name)"
      guard let lock = try? FolderLock(folder), lock.isEnforced else { continue }
      withExtendedLifetime(lock) { Self.removeFolder(folder) }
    }
  }

  /// Removes a folder of plain files; what cannot be removed is left for the next sweep.
  private static func removeFolder(_ folder: String) {
    for name in (try? Folder.entries(of: folder)) ?? [] { unlink("\(folder)/\(name)") }
    rmdir(folder)
  }

  private static func timestamp() -> String {
    var now = time(nil)
    var parts = tm()
    gmtime_r(&now, &parts)
    var text = [CChar](repeating: 0, count: 32)
    let count = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
