internal import Glibc

/// Why a file cannot be read or written: what kind of failure it is, the file, the tensor or key
/// concerned if there is one, and the fault.
public struct FileError: Error, CustomStringConvertible, Sendable {
  /// What kind of failure it is, for callers that act on it.
  public enum Kind: Sendable, Equatable {
    /// There is nothing at the path.
    case notFound
    /// There is something at the path already.
    case exists
    /// The contents depart from the format.
    case malformed
    /// The contents follow the format, but Granule does not support what they ask for.
    case unsupported
    /// The contents exceed a limit.
    case tooLarge(limit: Int)
    /// The contents differ from what was recorded about them.
    case changed
    /// The folder is locked by a process that works in it.
    case busy
    /// The caller asked for the transfer to stop.
    case interrupted
    /// There is not enough memory.
    case outOfMemory
    /// The operating system refused, with this `errno`.
    case system(Int32)
  }

  /// What kind of failure it is.
  public let kind: Kind
  /// The file's path, or the name under which it was published.
  public let file: String
  /// The tensor concerned, nil unless the fault concerns one.
  public let tensor: String?
  /// The key concerned, as a path from the root (`metadata.granularities[2].k`), nil unless the
  /// fault concerns one.
  public let key: String?
  /// What is wrong, beginning with a verb, and what was expected if that helps.
  public let fault: String

  /// A fault of `file`, or of one tensor or key in it.
  public init(
    file: String, tensor: String? = nil, key: String? = nil, kind: Kind = .malformed, fault: String
  ) {
    self.kind = kind
    self.file = file
    self.tensor = tensor
    self.key = key
    self.fault = fault
  }

  /// The operating system's refusal, as `errno` tells it: `WHAT: REASON`, or the reason alone.
  package static func system(_ file: String, _ what: String? = nil) -> FileError {
    let code = errno
    let reason = String(cString: strerror(code))
    let kind: Kind =
      switch code {
      case ENOENT: .notFound
      case EEXIST, ENOTEMPTY: .exists
      case ENOMEM: .outOfMemory
      default: .system(code)
      }
    return FileError(file: file, kind: kind, fault: what.map { "\($0): \(reason)" } ?? reason)
  }

  /// `FILE: FAULT`, with `tensor NAME: ` and `KEY ` before the fault if it concerns such.
  public var description: String {
    let tensor = tensor.map { "tensor \($0): " } ?? ""
    return "\(file): \(tensor)\(key.map { "\($0) " } ?? "")\(fault)"
  }
}
