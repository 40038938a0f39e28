import GranuleCalls
import GranuleRepository

/// Which version of each model answers, which are kept beside it, and what administrators wish; a
/// state machine without threads or files that is told the time.
///
/// A load takes long and is overtaken by a later wish: every load carries the model's generation as
/// it was when the load was asked for, and what it brings is dropped if the generation has changed.
struct Registry {
  /// A change that an administrator asked for.
  enum Change: Sendable {
    /// Serve this version and keep to it, or keep it beside the one that serves; version 0 follows
    /// the newest.
    case load(version: UInt64, beside: Bool)
    /// Stop serving; a version other than 0 is only let go of, which was kept beside.
    case unload(version: UInt64)
    /// Keep this many latents in memory; 0 keeps all.
    case resize(granularity: UInt32)
  }

  private(set) var models: [String: ModelEntry] = [:]
  /// Times that another version, or the same with another size, took over.
  private(set) var swaps: UInt64 = 0
  /// The most latents of each model to keep in memory until it is resized; nil keeps all.
  let granularityMax: Int?
  let limits: EngineLimits

  init(granularityMax: Int?, limits: EngineLimits) {
    self.granularityMax = granularityMax
    self.limits = limits
  }

  // MARK: Asking

  /// The version that answers a request for `version` of a model; 0 is the one that serves.
  ///
  /// - Throws: why no version can answer, naming those that can; `field` is the request's name in the
  ///   message.
  func pin(_ name: String, version: UInt64, field: String) throws(ServerError) -> ResidentVersion {
    guard let entry = models[name] else {
      let names = models.keys.sorted().prefix(10).joined(separator: ", ")
      throw ServerError(
        .notFound,
        "\(field).model: there is no model \(name); the repository has \(names.isEmpty ? "none" : names)"
      )
    }
    if let resident = entry.resident(version) { return resident }
    let numbers = entry.residentNumbers
    guard version != 0, !numbers.isEmpty else { throw notServing(name, entry, field) }
    let list = numbers.map { "\($0)" }.joined(separator: ", ")
    throw ServerError(
      .notFound, "\(field).version: \(version) of \(name) is not resident; resident: \(list)")
  }

  private func notServing(_ name: String, _ entry: ModelEntry, _ field: String) -> ServerError {
    if entry.isHeld {
      return ServerError(
        .failedPrecondition,
        "\(field).model: \(name) was unloaded by request; load it again with load_model")
    }
    if let failure = entry.failures.max(by: { $0.key < $1.key }) {
      return ServerError(
        .failedPrecondition,
        "\(field).model: version \(failure.key) of \(name) could not be loaded: \(failure.value.message)"
      )
    }
    return ServerError(
      .unavailable, "\(field).model: \(name) is being loaded; try again later",
      retryAfterMilliseconds: limits.retryAfterLoadingMilliseconds)
  }

  /// Every model, by name.
  func list() -> [ModelStatus] {
    models.map { $1.status(name: $0) }.sorted { $0.name < $1.name }
  }

  /// A model's status; one without versions if it is not known.
  func status(of name: String) -> ModelStatus {
    models[name]?.status(name: name)
      ?? ModelStatus(name: name, servingVersion: 0, pinned: false, versions: [])
  }

  /// Whether a version stays in memory, whoever lets go of it.
  func isKept(_ version: ResidentVersion) -> Bool {
    models.values.contains {
      $0.serving === version || $0.beside[version.version] === version
    }
  }

  // MARK: Wishes

  /// Takes an administrator's wish. Unloading takes effect at once, so that a load which is under way
  /// is overtaken.
  ///
  /// - Returns: the generation that carries the wish out, and versions that nobody keeps any more.
  /// - Throws: why it cannot be granted.
  mutating func wish(_ change: Change, for name: String) throws(ServerError) -> (
    generation: UInt64, released: [ResidentVersion]
  ) {
    var generation = models[name]?.generation ?? 0
    switch change {
    case .unload(let version):
      guard models[name] != nil else {
        throw ServerError(.notFound, "unload_model.name: there is no model \(name)")
      }
      if version != 0 { return (generation, [try letGo(of: version, name)]) }
      return (generation, unload(name))
    case .load(_, let beside):
      // Loads that are under way are overtaken from now on.
      if !beside { generation += 1 }
      models[name]?.generation = generation
    case .resize: break
    }
    return (generation, [])
  }

  private mutating func unload(_ name: String) -> [ResidentVersion] {
    let old = models[name]?.serve(nil)
    models[name]?.generation += 1
    models[name]?.isHeld = true
    models[name]?.isPinned = false
    var released: [ResidentVersion] = []
    for number in models[name]?.beside.keys.sorted() ?? [] {
      if let version = try? letGo(of: number, name) { released.append(version) }
    }
    if let old { released.append(old) }
    return released
  }

  /// Keeps a version beside the one that serves no longer.
  private mutating func letGo(of version: UInt64, _ name: String) throws(ServerError)
    -> ResidentVersion
  {
    guard let old = models[name]?.beside.removeValue(forKey: version) else {
      throw models[name]?.serving?.version == version
        ? ServerError(
          .failedPrecondition,
          "unload_model.version: \(version) of \(name) serves; load another, or unload the model")
        : ServerError(
          .notFound, "unload_model.version: \(version) of \(name) is not kept beside another")
    }
    if models[name]?.serving !== old { models[name]?.retire(old) }
    return old
  }

  // MARK: Loading

  /// The error of a load whose generation has passed.
  static func superseded(_ name: String) -> ServerError {
    ServerError(.failedPrecondition, "\(name): superseded by a later request")
  }

  /// Makes sure that a load is still wanted.
  private func check(_ name: String, _ generation: UInt64) throws(ServerError) {
    guard models[name]?.generation == generation else { throw Self.superseded(name) }
  }

  /// Begins a load by request, of a model that may be new.
  mutating func beginLoad(_ name: String, known: [UInt64], _ generation: UInt64)
    throws(ServerError)
  {
    var entry = models[name] ?? ModelEntry(latentsMax: granularityMax)
    entry.known = known
    // A model that was not known yet when this was asked for has counted nothing.
    entry.generation = max(entry.generation, generation)
    models[name] = entry
    try check(name, generation)
  }

  /// Ends a load by request.
  mutating func endLoad(_ name: String, isPinned: Bool, _ generation: UInt64) throws(ServerError) {
    try check(name, generation)
    models[name]?.isPinned = isPinned
    models[name]?.isHeld = false
  }

  /// Serves `version` from now on; gives what served before.
  mutating func serve(_ version: ResidentVersion, _ name: String, _ generation: UInt64)
    throws(ServerError) -> ResidentVersion?
  {
    try check(name, generation)
    swaps += 1
    return models[name]?.serve(version)
  }

  /// Keeps `version` for requests that name it; what serves stays.
  mutating func keepBeside(_ version: ResidentVersion, _ name: String, _ generation: UInt64)
    throws(ServerError)
  {
    try check(name, generation)
    models[name]?.beside[version.version] = version
    models[name]?.failures[version.version] = nil
  }

  /// Puts resized versions in the place of those that serve and are kept beside.
  ///
  /// - Parameter latentsMax: what further versions are cut to; nil keeps all latents.
  mutating func resize(
    _ name: String, latentsMax: Int?, serving fresh: ResidentVersion,
    beside: [UInt64: ResidentVersion], _ generation: UInt64
  ) throws(ServerError) {
    try check(name, generation)
    guard var entry = models[name] else { return }
    entry.latentsMax = latentsMax
    let serving = entry.serving
    if fresh !== serving {
      _ = entry.serve(fresh)
      swaps += 1
    }
    // What was unloaded meanwhile stays so.
    for (number, version) in beside {
      guard let old = entry.beside[number], old !== version else { continue }
      if old !== serving { entry.retire(old) }
      entry.beside[number] = version
    }
    models[name] = entry
  }

  /// Notes which version of a model is being read; nil: none.
  mutating func reading(_ number: UInt64?, of name: String) { models[name]?.loading = number }

  /// Remembers why a version could not be loaded, and when to try again; false if the same reason is
  /// known already.
  mutating func fail(
    _ name: String, _ number: UInt64, _ message: String, _ stamp: VersionStamp,
    now: ContinuousClock.Instant
  ) -> Bool {
    let before = models[name]?.failures[number]
    let tries = before?.stamp == stamp ? (before?.tries ?? 0) + 1 : 1
    let delay = min(limits.loadRetryMin * (1 << min(tries - 1, 20)), limits.loadRetryMax)
    models[name]?.failures[number] = ModelEntry.Failure(
      message: message, stamp: stamp, nextTry: now + delay, tries: tries)
    return before?.message != message
  }

  // MARK: Following the repository

  /// Takes in what the repository holds: the complete versions of each model.
  mutating func observe(_ present: [String: [UInt64]]) {
    for (name, versions) in present {
      models[name, default: ModelEntry(latentsMax: granularityMax)].known = versions
      for gone in models[name]?.failures.keys.filter({ !versions.contains($0) }) ?? [] {
        models[name]?.failures[gone] = nil
      }
    }
    for (name, entry) in models where present[name] == nil {
      // Its folder has gone; what serves, or was told to stay away, is remembered.
      models[name]?.known = []
      if entry.serving == nil, !entry.isHeld { models[name] = nil }
    }
  }

  /// The versions of a model that would take over if they can be loaded, the newest first; empty if
  /// the model keeps to its version.
  func candidates(_ name: String) -> [UInt64] {
    guard let entry = models[name], !entry.isHeld, !entry.isPinned else { return [] }
    return entry.known.reversed().filter { $0 > (entry.serving?.version ?? 0) }
  }

  /// Whether to try a version: it has not failed, its files have changed since, or it is time again.
  func isWorthTrying(
    _ name: String, _ number: UInt64, stamp: () -> VersionStamp, now: ContinuousClock.Instant
  ) -> Bool {
    guard let failure = models[name]?.failures[number] else { return true }
    return failure.stamp != stamp() || now >= failure.nextTry
  }
}
