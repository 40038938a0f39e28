import CMalloc
import GranuleDictionary
import GranuleRepository
import GranuleThreads
import GranuleTransport
import GranuleWire
import Logging

/// Which version of each model answers, and the thread that changes it.
///
/// How it works:
/// 1. the event loop asks `pin` for the version that answers a request; that is one reference,
///    swapped under a lock;
/// 2. everything that takes time (reading, verifying, warming, truncating, freeing) happens on the
///    loader's thread, one thing after another;
/// 3. a version is swapped in only once it is complete; the one before lives until its last request
///    ends;
/// 4. what fails is remembered and tried again when its files change, and ever more seldom without;
///    what serves goes on serving.
final class ResidentModels: Sendable {
  /// A change that an administrator asked for.
  enum Change: Sendable {
    /// Serve this version and keep to it, or keep it beside the one that serves; 0: follow the
    /// newest.
    case load(version: UInt64, beside: Bool)
    /// Stop serving; not 0: only let go of this version, which is kept beside.
    case unload(version: UInt64)
    /// Keep this many latents in memory; 0: all.
    case resize(granularity: UInt32)
  }
  typealias Completion = @Sendable (Result<ModelStatus, ServerError>) -> Void

  private enum Task {
    case change(String, Change, generation: UInt64, Completion)
    case poll(@Sendable () -> Void)
    /// Give unused memory back to the system.
    case trim
    /// Only to be released, away from the event loop.
    case release(ResidentVersion)
  }
  /// What has happened since the start.
  struct Counts: Sendable {
    /// Another version, or the same with another size, took over.
    var swaps: UInt64 = 0
    /// Versions that could not be loaded.
    var failures: UInt64 = 0
    /// Times that unused memory was given back to the system.
    var trims: UInt64 = 0
  }
  private struct State {
    var counts = Counts()
    var models: [String: ModelEntry] = [:]
    var tasks = FirstInFirstOut<Task>()
    var changesWaiting = 0
    var isPollWaiting = false
    var hasPolled = false
    var isStopping = false
    var pollFailures: [String] = []
    /// Versions that wait in `tasks` to be released.
    private var releasing: Set<ObjectIdentifier> = []

    /// Has the loader let go of a version, once however many ask for it meanwhile.
    mutating func release(_ version: ResidentVersion) {
      guard releasing.insert(ObjectIdentifier(version)).inserted else { return }
      tasks.append(.release(version))
    }

    mutating func nextTask() -> Task? {
      guard let task = tasks.popFirst() else { return nil }
      if case .release(let version) = task { releasing.remove(ObjectIdentifier(version)) }
      return task
    }
  }

  private let repository: ModelRepository
  private let limits: ServerLimits
  private let granularityMax: Int?
  let log: EventLog
  private let monitor = Monitor(State())
  private let thread = Monitor<WorkerThread?>(nil)

  init(
    repository: ModelRepository, limits: ServerLimits, granularityMax: Int?, log: EventLog
  ) {
    self.repository = repository
    self.limits = limits
    self.granularityMax = granularityMax
    self.log = log
  }

  /// Starts the loader's thread.
  func start() throws(ThreadError) {
    // Loading takes its time, requests do not wait for it.
    let worker = try WorkerThread(name: "loader", niceness: 10) { self.runTasks() }
    thread.change { $0 = worker }
  }

  /// Ends the loader's thread after what it is at, and waits for it.
  func stop() {
    monitor.change { $0.isStopping = true }
    thread.change { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }

  // MARK: For the event loop; nothing here takes long

  /// Whether the repository has been looked at once.
  var hasPolled: Bool { monitor.read { $0.hasPolled } }

  /// The version that answers a request for `version` of a model; 0 means the one that serves.
  ///
  /// - Throws: why none can, naming what can; `field` is the request's name in the message.
  func pin(_ name: String, version: UInt64, field: String) throws(ServerError) -> ResidentVersion {
    let found = monitor.read { state -> Result<ResidentVersion, ServerError> in
      guard let entry = state.models[name] else {
        let names = state.models.keys.sorted().prefix(10).joined(separator: ", ")
        return .failure(
          ServerError(
            .notFound,
            "\(field).model: there is no model \(name); the repository has \(names.isEmpty ? "none" : names)"
          ))
      }
      if let resident = entry.resident(version) { return .success(resident) }
      let numbers = entry.residentNumbers
      guard version != 0, !numbers.isEmpty else {
        return .failure(notServing(name, entry, field))
      }
      let list = numbers.map { "\($0)" }.joined(separator: ", ")
      return .failure(
        ServerError(
          .notFound, "\(field).version: \(version) of \(name) is not resident; resident: \(list)"))
    }
    return try found.get()
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

  /// What has happened since the start.
  var counts: Counts { monitor.read { $0.counts } }

  /// Every model, by name.
  func list() -> [ModelStatus] {
    monitor.read { state in
      state.models.map { $1.status(name: $0) }.sorted { $0.name < $1.name }
    }
  }

  /// Asks for a change; `completed` is called once it has taken effect or failed, on whatever
  /// thread.
  func submit(_ change: Change, to name: String, completed: @escaping Completion) {
    let refused: ServerError? = monitor.change { state in
      guard state.changesWaiting < limits.administrationRequestsMax else {
        return ServerError(
          .unavailable, "\(state.changesWaiting) changes wait already; try again later",
          retryAfterMilliseconds: limits.retryAfterLoadingMilliseconds)
      }
      var generation = state.models[name]?.generation ?? 0
      switch change {
      case .unload(let version):
        guard state.models[name] != nil else {
          return ServerError(.notFound, "unload_model.name: there is no model \(name)")
        }
        if version != 0 {
          if let refused = letGo(of: version, name, &state) { return refused }
        } else {
          unload(name, &state)
        }
      case .load(_, let beside):
        // Loads that are under way are overtaken from now on.
        if !beside { generation += 1 }
        state.models[name]?.generation = generation
      case .resize: break
      }
      state.changesWaiting += 1
      state.tasks.append(.change(name, change, generation: generation, completed))
      return nil
    }
    if let refused { completed(.failure(refused)) }
  }

  /// Takes effect at once, so that a load which is under way is overtaken; the memory is freed by
  /// the loader.
  private func unload(_ name: String, _ state: inout State) {
    let old = state.models[name]?.serve(nil)
    state.models[name]?.generation += 1
    state.models[name]?.isHeld = true
    state.models[name]?.isPinned = false
    for number in state.models[name]?.beside.keys.sorted() ?? [] {
      _ = letGo(of: number, name, &state)
    }
    if let old { state.release(old) }
  }

  /// Keeps a version beside the one that serves no longer; gives the error where it is not kept.
  private func letGo(of version: UInt64, _ name: String, _ state: inout State) -> ServerError? {
    guard let old = state.models[name]?.beside.removeValue(forKey: version) else {
      return state.models[name]?.serving?.version == version
        ? ServerError(
          .failedPrecondition,
          "unload_model.version: \(version) of \(name) serves; load another, or unload the model")
        : ServerError(
          .notFound, "unload_model.version: \(version) of \(name) is not kept beside another")
    }
    if state.models[name]?.serving !== old { state.models[name]?.retire(old) }
    state.release(old)
    return nil
  }

  /// Looks at the repository, unless that is about to happen already.
  func poll(completed: @escaping @Sendable () -> Void = {}) {
    monitor.change { state in
      guard !state.isPollWaiting else { return }
      state.isPollWaiting = true
      state.tasks.append(.poll(completed))
    }
  }

  /// Takes the last reference to a version, if this is one, to the loader's thread: freeing a
  /// dictionary takes too long for the event loop.
  func release(_ version: ResidentVersion) {
    monitor.change { state in
      // What is kept anyway is freed by whoever lets go of it.
      let isKept = state.models.values.contains {
        $0.serving === version || $0.beside[version.version] === version
      }
      if !isKept { state.release(version) }
    }
  }

  /// Gives memory that is not used any more, but that the allocator keeps, back to the system.
  func trimMemory() {
    monitor.change { $0.tasks.append(.trim) }
  }

  // MARK: On the loader's thread

  private func runTasks() {
    while true {
      let task = monitor.wait { state -> Task?? in
        if state.isStopping { return .some(nil) }
        return state.nextTask().map { .some($0) }
      }
      guard let task else { return }
      switch task {
      case .change(let name, let change, let generation, let completed):
        let result = self.change(name, change, generation)
        monitor.change { $0.changesWaiting -= 1 }
        switch change {
        case .resize, .unload: trim()
        case .load: break
        }
        completed(result)
      case .poll(let completed):
        monitor.change { $0.isPollWaiting = false }
        look()
        monitor.change { $0.hasPolled = true }
        completed()
      case .trim: trim()
      case .release: break
      }
    }
  }

  /// What was freed may lie between blocks that are still used: only this gives it back.
  private func trim() {
    malloc_trim(0)
    monitor.change { $0.counts.trims += 1 }
  }

  private func change(_ name: String, _ change: Change, _ generation: UInt64)
    -> Result<ModelStatus, ServerError>
  {
    do throws(ServerError) {
      switch change {
      case .load(let version, beside: false): try load(name, version, generation)
      case .load(let version, beside: true): try keepBeside(name, version, generation)
      case .unload(let version):
        log.write(
          .swap, "\(name): \(version == 0 ? "" : "version \(version) ")unloaded by request",
          ["model": "\(name)"])
      case .resize(let granularity): try resize(name, Int(granularity))
      }
    } catch {
      return .failure(error)
    }
    return .success(
      monitor.read { $0.models[name]?.status(name: name) }
        ?? ModelStatus(name: name, servingVersion: 0, pinned: false, versions: []))
  }

  private func load(_ name: String, _ requested: UInt64, _ generation: UInt64)
    throws(ServerError)
  {
    let known = try known(name, requested)
    let number = requested == 0 ? known[known.count - 1] : requested
    let expected: UInt64? = monitor.change { state in
      var entry = state.models[name] ?? ModelEntry(latentsMax: granularityMax)
      entry.known = known
      // A model that was not known yet when this was asked for has counted nothing.
      entry.generation = max(entry.generation, generation)
      state.models[name] = entry
      return entry.generation == generation ? generation : nil
    }
    guard let expected else { throw overtaken(name) }
    if let version = try fetch(name, number, expected) {
      log.write(
        .swap, "\(name): version \(version) loaded by request",
        ["model": "\(name)", "version": "\(version)"])
    }
    let isCurrent = monitor.change { state -> Bool in
      guard state.models[name]?.generation == expected else { return false }
      state.models[name]?.isPinned = requested != 0
      state.models[name]?.isHeld = false
      return true
    }
    guard isCurrent else { throw overtaken(name) }
  }

  /// Keeps a version for requests that name it; what serves stays.
  private func keepBeside(_ name: String, _ number: UInt64, _ generation: UInt64)
    throws(ServerError)
  {
    _ = try known(name, number)
    let entry = monitor.read { $0.models[name] }
    guard let entry, entry.serving != nil, entry.generation == generation else {
      throw ServerError(
        .failedPrecondition,
        "load_model.beside: \(name) is not served, or changes just now; load it first")
    }
    let version: ResidentVersion
    if let resident = entry.resident(number) {
      version = resident
    } else {
      version = try read(name, number, latents: entry.latentsMax)
    }
    let isCurrent = monitor.change { state -> Bool in
      guard state.models[name]?.generation == generation else { return false }
      state.models[name]?.beside[number] = version
      state.models[name]?.failures[number] = nil
      return true
    }
    guard isCurrent else { throw overtaken(name) }
    log.write(
      .swap, "\(name): version \(number) is kept beside the one that serves",
      ["model": "\(name)", "version": "\(number)"])
  }

  /// The complete versions of a model, which hold `requested` unless that is 0; never none.
  private func known(_ name: String, _ requested: UInt64) throws(ServerError) -> [UInt64] {
    let known: [UInt64]
    do { known = try repository.versions(of: name) } catch {
      throw ServerError(.unavailable, "load_model: the repository cannot be read: \(error)")
    }
    guard !known.isEmpty else {
      throw ServerError(
        .notFound, "load_model.name: the repository has no complete version of \(name)")
    }
    guard requested == 0 || known.contains(requested) else {
      throw ServerError(
        .notFound,
        "load_model.version: \(name) has no version \(requested); it has \(known.map(String.init).joined(separator: ", "))"
      )
    }
    return known
  }

  private func overtaken(_ name: String) -> ServerError {
    ServerError(.failedPrecondition, "\(name): a later request took the place of this one")
  }

  /// Reads, verifies and warms a version unless it is in memory already, and serves it; nil where it
  /// serves already.
  private func fetch(_ name: String, _ number: UInt64, _ generation: UInt64)
    throws(ServerError) -> UInt64?
  {
    let entry = monitor.read { $0.models[name] }
    guard entry?.serving?.version != number else { return nil }
    let fresh: ResidentVersion
    if let kept = entry?.beside[number] {
      fresh = kept
    } else {
      fresh = try read(name, number, latents: entry?.latentsMax)
    }
    let (isCurrent, old) = monitor.change { state -> (Bool, ResidentVersion?) in
      guard state.models[name]?.generation == generation else { return (false, nil) }
      state.counts.swaps += 1
      return (true, state.models[name]?.serve(fresh))
    }
    guard isCurrent else { throw overtaken(name) }
    // If no request holds it any more, it is freed here, on the loader's thread.
    withExtendedLifetime(old) {}
    return number
  }

  /// Reads, verifies and warms a version. What cannot be loaded is remembered as failed.
  private func read(_ name: String, _ number: UInt64, latents: Int?) throws(ServerError)
    -> ResidentVersion
  {
    // Before reading: what changes meanwhile is tried again.
    let stamp = repository.stamp(of: name, version: number)
    monitor.change { $0.models[name]?.loading = number }
    defer { monitor.change { $0.models[name]?.loading = nil } }
    do {
      let version = try ResidentVersion(
        version: number, try repository.load(name, version: number, latents: latents))
      try version.warm()
      return version
    } catch {
      let isNews = remember("\(error)", of: name, number, stamp)
      monitor.change { $0.counts.failures += 1 }
      if isNews { reportFailure(name, number, error) }
      throw ServerError(
        .failedPrecondition, "version \(number) of \(name) cannot be loaded: \(error)")
    }
  }

  /// Remembers why a version could not be loaded; false where that is known already.
  private func remember(
    _ message: String, of name: String, _ number: UInt64, _ stamp: VersionStamp
  ) -> Bool {
    monitor.change { state in
      let before = state.models[name]?.failures[number]
      let tries = before?.stamp == stamp ? (before?.tries ?? 0) + 1 : 1
      let delay = min(
        limits.loadRetryMin * (1 << min(tries - 1, 20)), limits.loadRetryMax)
      state.models[name]?.failures[number] = ModelEntry.Failure(
        message: message, stamp: stamp, nextTry: .now + delay, tries: tries)
      return before?.message != message
    }
  }

  private func reportFailure(_ name: String, _ number: UInt64, _ error: any Error) {
    log.write(
      .loadFailure, at: .error, "\(name): version \(number) cannot be loaded: \(error)",
      ["model": "\(name)", "version": "\(number)"])
  }

  private func resize(_ name: String, _ granularity: Int) throws(ServerError) {
    let (entry, exists) = monitor.read { ($0.models[name], $0.models[name] != nil) }
    guard exists else {
      throw ServerError(.notFound, "resize_model.name: there is no model \(name)")
    }
    guard let serving = entry?.serving, let generation = entry?.generation else {
      throw ServerError(
        .failedPrecondition, "resize_model.name: \(name) is not loaded; load it first")
    }
    guard granularity <= serving.latents else {
      throw ServerError(
        .invalidArgument,
        "resize_model.granularity: \(granularity) is above the model's \(serving.latents) latents")
    }
    let wanted = granularity == 0 ? serving.latents : granularity
    let fresh = try resized(serving, name, to: wanted)
    var beside: [UInt64: ResidentVersion] = [:]
    for (number, version) in entry?.beside ?? [:] {
      beside[number] =
        version === serving
        ? fresh : try resized(version, name, to: granularity == 0 ? version.latents : granularity)
    }
    let isCurrent = monitor.change { state -> Bool in
      guard var entry = state.models[name], entry.generation == generation else { return false }
      entry.latentsMax = granularity == 0 ? nil : granularity
      if fresh !== serving {
        _ = entry.serve(fresh)
        state.counts.swaps += 1
      }
      // What was unloaded meanwhile stays so.
      for (number, version) in beside {
        guard let old = entry.beside[number], old !== version else { continue }
        if old !== serving { entry.retire(old) }
        entry.beside[number] = version
      }
      state.models[name] = entry
      return true
    }
    guard isCurrent else { throw overtaken(name) }
    log.write(
      .swap, "\(name): \(wanted) of \(serving.latents) latents are resident",
      ["model": "\(name)", "version": "\(serving.version)", "latents": "\(wanted)"])
  }

  /// A version with `wanted` of its latents in memory, or all where it has fewer.
  private func resized(_ version: ResidentVersion, _ name: String, to wanted: Int)
    throws(ServerError) -> ResidentVersion
  {
    let wanted = min(wanted, version.latents)
    if wanted == version.dictionary.latents { return version }
    do {
      let fresh =
        wanted < version.dictionary.latents
        ? try ResidentVersion(truncating: version, to: wanted)
        : try ResidentVersion(
          version: version.version,
          try repository.load(name, version: version.version, latents: wanted))
      try fresh.warm()
      return fresh
    } catch {
      monitor.change { $0.counts.failures += 1 }
      reportFailure(name, version.version, error)
      throw ServerError(
        .failedPrecondition, "version \(version.version) of \(name) cannot be loaded: \(error)")
    }
  }

  /// Serves what has been published since; what is missing or broken changes nothing.
  private func look() {
    var found: [(name: String, versions: [UInt64])] = []
    var failures: [String] = []
    do throws(ModelRepositoryError) {
      for (name, versions) in try repository.models() {
        switch versions {
        case .success(let versions): found.append((name, versions))
        case .failure(let error): failures.append("\(name) cannot be read: \(error)")
        }
      }
    } catch {
      report(["the repository cannot be read: \(error)"])
      return
    }
    report(failures)
    let present = Dictionary(uniqueKeysWithValues: found.map { ($0.name, $0.versions) })
    monitor.change { state in
      for (name, versions) in present {
        state.models[name, default: ModelEntry(latentsMax: granularityMax)].known = versions
        for gone in state.models[name]?.failures.keys.filter({ !versions.contains($0) }) ?? [] {
          state.models[name]?.failures[gone] = nil
        }
      }
      for (name, entry) in state.models where present[name] == nil {
        // Its folder has gone; what serves, or was told to stay away, is remembered.
        state.models[name]?.known = []
        if entry.serving == nil, !entry.isHeld { state.models[name] = nil }
      }
    }
    for (name, versions) in found {
      if monitor.read({ $0.isStopping }) { return }
      follow(name, versions)
    }
  }

  /// Logs what went wrong with a look at the repository, once for as long as it stays the same.
  private func report(_ failures: [String]) {
    let news = monitor.change { state in
      defer { state.pollFailures = failures }
      return failures.filter { !state.pollFailures.contains($0) }
    }
    for failure in news { log.write(.repository, at: .error, failure) }
  }

  /// Serves the newest version that can be loaded and is newer than the one that serves.
  private func follow(_ name: String, _ versions: [UInt64]) {
    guard let entry = monitor.read({ $0.models[name] }), !entry.isHeld, !entry.isPinned else {
      return
    }
    for number in versions.reversed() where number > (entry.serving?.version ?? 0) {
      if let failure = entry.failures[number],
        failure.stamp == repository.stamp(of: name, version: number), .now < failure.nextTry
      {
        continue
      }
      do throws(ServerError) {
        if try fetch(name, number, entry.generation) != nil {
          log.write(
            .swap, "\(name): serving version \(number)",
            ["model": "\(name)", "version": "\(number)"])
        }
        return
      } catch {
        // Remembered as failed; an older version may still do.
      }
    }
  }
}
