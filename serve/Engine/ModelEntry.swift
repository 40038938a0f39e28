import GranuleRepository
import GranuleCalls

/// What the registry knows of one model, and what it was told to do with it.
struct ModelEntry {
  /// A version that could not be loaded.
  struct Failure {
    let message: String
    /// What its files looked like; the version is tried again once they have changed.
    let stamp: VersionStamp
    /// When to try again although the files are the same: what was missing, such as memory, may be
    /// there again.
    let nextTry: ContinuousClock.Instant
    /// How often the version has failed with these files.
    let tries: Int
  }
  /// A version that was replaced, and may still have calls.
  struct Retired {
    weak var version: ResidentVersion?
    let number: UInt64
  }

  /// The version that answers new calls.
  var serving: ResidentVersion?
  /// Versions kept for calls that name them; the one that serves may be among them.
  var beside: [UInt64: ResidentVersion] = [:]
  /// Whether the model keeps to `serving`, whatever is published.
  var isPinned = false
  /// Whether the model was unloaded by request, and stays so until it is loaded by request.
  var isHeld = false
  /// The most latents to keep in memory; nil keeps all.
  var latentsMax: Int?
  /// Counts the requests that decide which version is served: a load that ends after a later one is
  /// dropped.
  var generation: UInt64 = 0
  /// The version being loaded.
  var loading: UInt64?
  /// The complete versions in the repository when it was last looked at.
  var known: [UInt64] = []
  var failures: [UInt64: Failure] = [:]
  var retired: [Retired] = []

  /// Serves `version` from now on; returns what served before, to be released on a thread that may
  /// take long.
  mutating func serve(_ version: ResidentVersion?) -> ResidentVersion? {
    let old = serving
    if let old { retire(old) }
    if let version { failures[version.version] = nil }
    serving = version
    return old
  }

  /// Remembers a version for as long as calls hold it.
  mutating func retire(_ old: ResidentVersion) {
    retired.removeAll { $0.version == nil }
    retired.append(Retired(version: old, number: old.version))
  }

  /// The version in memory with this number; 0 is the one that serves.
  func resident(_ version: UInt64) -> ResidentVersion? {
    version == 0 || version == serving?.version ? serving : beside[version]
  }

  /// The versions that a call may name, ascending.
  var residentNumbers: [UInt64] {
    Set(beside.keys).union(serving.map { [$0.version] } ?? []).sorted()
  }

  /// What to report of the model.
  func status(name: String) -> ModelStatus {
    var versions: [UInt64: ModelVersionStatus] = [:]
    for number in known {
      versions[number] = ModelVersionStatus(version: number, state: .available)
    }
    for (number, failure) in failures {
      versions[number] = ModelVersionStatus(
        version: number, state: .failed, failure: failure.message)
    }
    for old in retired {
      if let version = old.version { versions[old.number] = version.status(.unloading) }
    }
    if let loading { versions[loading] = ModelVersionStatus(version: loading, state: .loading) }
    for (number, version) in beside { versions[number] = version.status(.ready) }
    if let serving { versions[serving.version] = serving.status(.ready) }
    return ModelStatus(
      name: name, servingVersion: serving?.version ?? 0, pinned: isPinned,
      versions: versions.values.sorted { $0.version < $1.version })
  }
}
