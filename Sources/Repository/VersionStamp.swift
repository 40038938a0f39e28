internal import GranuleFiles

/// What a version's files look like from outside: names, sizes, times and places. Equal stamps mean
/// that nothing has changed between them.
public struct VersionStamp: Equatable, Sendable {
  private let files: [Fingerprint]

  /// Files that are looked at; a version has far fewer.
  private static let filesMax = 64

  init(folder: String) {
    files = ((try? Folder.entries(of: folder)) ?? []).prefix(Self.filesMax)
      .compactMap { Fingerprint(statusOf: "\(folder)/\($0)") }
  }
}

extension ModelRepository {
  /// The stamp of a version's files now; an empty one if there are none.
  public func stamp(of name: String, version: UInt64) -> VersionStamp {
    VersionStamp(folder: "\(path)/\(name)/\(version)")
  }
}
