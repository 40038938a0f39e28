internal import Glibc
public import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors

/// The folder in which the trainer and the server meet: `REPOSITORY/NAME/VERSION/`, VERSION a
/// positive integer in canonical decimal, immutable once published.
public struct ModelRepository: Sendable {
  /// The repository's folder.
  public let path: String

  /// A repository at `path`; nothing is read or made until it is used.
  public init(path: String) { self.path = path }

  /// Whether `name` may name a model: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
  public static func isValidName(_ name: String) -> Bool {
    func isLetterOrDigit(_ byte: UInt8) -> Bool {
      (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
        || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }
    guard let first = name.utf8.first, isLetterOrDigit(first), name.utf8.count <= 128 else {
      return false
    }
    return name.utf8.allSatisfy { isLetterOrDigit($0) || "._-".utf8.contains($0) }
  }

  /// The models that have a complete version or whose folder cannot be read, sorted by name: each
  /// with its complete versions, ascending, or why its folder cannot be read. A repository that does
  /// not exist has none.
  ///
  /// - Throws: `ModelRepositoryError.system` where the repository's folder cannot be read.
  public func models() throws(ModelRepositoryError)
    -> [(name: String, versions: Result<[UInt64], ModelRepositoryError>)]
  {
    var models: [(name: String, versions: Result<[UInt64], ModelRepositoryError>)] = []
    for name in try entries(of: path) where Self.isValidName(name) {
      // One folder that cannot be read must not hide the others.
      do throws(ModelRepositoryError) {
        let versions = try versions(of: name)
        if !versions.isEmpty { models.append((name, .success(versions))) }
      } catch {
        models.append((name, .failure(error)))
      }
    }
    return models
  }

  /// The complete versions of a model, ascending: those whose manifest, written last, is there.
  ///
  /// - Throws: `ModelRepositoryError.system` where the folder cannot be read.
  public func versions(of name: String) throws(ModelRepositoryError) -> [UInt64] {
    guard Self.isValidName(name) else { throw .invalidName(name) }
    let folder = "\(path)/\(name)"
    var versions: [UInt64] = []
    for entry in try entries(of: folder) {
      guard let version = Self.version(entry),
        access("\(folder)/\(entry)/\(Manifest.fileName)", F_OK) == 0
      else { continue }
      versions.append(version)
    }
    return versions.sorted()
  }

  /// Reads a version into memory and verifies the size and digest of every file that it needs, those
  /// very bytes.
  ///
  /// - Parameter latents: number of first latents to keep in memory; nil or more than there
  ///   are: all.
  /// - Throws: `ModelRepositoryError`; nothing half-read is ever returned.
  public func load(
    _ name: String, version: UInt64, latents: Int? = nil
  ) throws(ModelRepositoryError) -> PublishedDictionary {
    guard Self.isValidName(name) else { throw .invalidName(name) }
    let folder = "\(path)/\(name)/\(version)"
    guard access(folder, F_OK) == 0 else {
      let known = try versions(of: name)
      guard !known.isEmpty else { throw .unknownModel(name, repository: path) }
      throw .unknownVersion(name, version: version, known: known)
    }
    let manifest = try Manifest(folder: folder)
    var files: [String: FileBytes] = [:]
    for (fileName, entry) in manifest.files where DictionaryFiles.readNames.contains(fileName) {
      let filePath = "\(folder)/\(fileName)"
      // The manifest's word alone would let JSON of any size be parsed.
      guard
        fileName != DictionaryFiles.configName
          || entry.byteCount <= DictionaryFiles.configBytesMax
      else {
        throw .corrupt(
          FileError(
            file: filePath, kind: .tooLarge(limit: DictionaryFiles.configBytesMax),
            fault:
              "is \(entry.byteCount) bytes long, the limit is \(DictionaryFiles.configBytesMax)"))
      }
      files[fileName] = try Self.verifiedFile(filePath, entry)
    }
    func file(_ fileName: String) throws(ModelRepositoryError) -> FileBytes {
      guard let file = files[fileName] else {
        throw .corrupt(
          FileError(file: "\(folder)/\(Manifest.fileName)", fault: "does not list \(fileName)"))
      }
      return file
    }
    let dictionary: SparseAutoencoder
    let dictionaryFiles = DictionaryFiles(
      config: try file(DictionaryFiles.configName), weights: try file(DictionaryFiles.weightsName),
      companion: files[DictionaryFiles.companionName])
    do throws(FileError) { dictionary = try SparseAutoencoder(files: dictionaryFiles) } catch {
      throw .invalidDictionary(error)
    }
    let sha256 = manifest.files.first { $0.name == DictionaryFiles.weightsName }?.entry.sha256 ?? ""
    let kept = latents.map { min($0, dictionary.latents) } ?? dictionary.latents
    return PublishedDictionary(
      dictionary: kept < dictionary.latents ? dictionary.truncated(to: max(kept, 1)) : dictionary,
      sha256: sha256, latents: dictionary.latents)
  }

  /// The version that an entry of a model's folder names, nil if it names none: 0, signs and
  /// leading zeros do not count.
  static func version(_ entry: String) -> UInt64? {
    guard let version = UInt64(entry), version > 0, version <= UInt64(Int64.max),
      String(version) == entry
    else { return nil }
    return version
  }

  /// The entries of a folder, sorted, hidden ones left out; none if it does not exist.
  func entries(of folder: String) throws(ModelRepositoryError) -> [String] {
    // A stray file where a model's folder would be is not a model.
    guard Folder.isFolder(folder) || (folder == path && access(path, F_OK) == 0) else { return [] }
    do throws(FileError) {
      return try Folder.entries(of: folder).filter { !$0.hasPrefix(".") }
    } catch {
      throw .system(error)
    }
  }

  private static func verifiedFile(
    _ path: String, _ entry: Manifest.Entry
  ) throws(ModelRepositoryError) -> FileBytes {
    func changed(_ fault: String) -> ModelRepositoryError {
      .corrupt(FileError(file: path, kind: .changed, fault: fault))
    }
    let file: FileBytes
    do throws(FileError) {
      file = try FileBytes.read(path, byteCountMax: entry.byteCount)
    } catch {
      throw .corrupt(error)
    }
    guard file.bytes.count == entry.byteCount else {
      throw changed("is \(file.bytes.count) bytes long, the manifest says \(entry.byteCount)")
    }
    let digest = Digest.sha256(file)
    guard digest == entry.sha256 else {
      throw changed("has sha256 \(digest), the manifest says \(entry.sha256)")
    }
    return file
  }
}

/// A dictionary as it was published.
public struct PublishedDictionary: Sendable {
  /// The dictionary, with as many latents in memory as were asked for.
  public let dictionary: SparseAutoencoder
  /// SHA-256 of the weights file, 64 hexadecimal digits.
  public let sha256: String
  /// Number of latents in the file.
  public let latents: Int
}
