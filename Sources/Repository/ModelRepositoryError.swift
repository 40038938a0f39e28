public import GranuleFiles

/// Why something cannot be published, found or loaded.
public enum ModelRepositoryError: Error, CustomStringConvertible, Sendable {
  /// The name is not `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
  case invalidName(String)
  /// The repository has no such model.
  case unknownModel(String, repository: String)
  /// The model has no such version that is complete.
  case unknownVersion(String, version: UInt64, known: [UInt64])
  /// A file of the version differs from what the manifest says, or cannot be read.
  case corrupt(FileError)
  /// The dictionary cannot be read from its files.
  case invalidDictionary(FileError)
  /// A file or folder of the repository cannot be read or written.
  case system(FileError)

  /// What was wrong, where, and what would be right.
  public var description: String {
    switch self {
    case .invalidName(let name):
      "model name '\(name.prefix(140))' is not valid: 1 to 128 letters, digits, '.', '_' and '-', "
        + "beginning with a letter or digit"
    case .unknownModel(let name, let repository): "\(repository) has no model \(name)"
    case .unknownVersion(let name, let version, let known):
      "model \(name) has no version \(version); it has "
        + (known.isEmpty ? "none" : known.map(String.init).joined(separator: ", "))
    case .corrupt(let error), .invalidDictionary(let error), .system(let error): "\(error)"
    }
  }
}
