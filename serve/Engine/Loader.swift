import CMalloc
internal import DequeModule
import GranuleCalls
import GranuleDictionary
import GranuleRepository
import GranuleThreads
import Logging

/// The thread that reads, resizes and frees dictionaries.
///
/// How it works:
/// 1. the engine asks `pin` for the version that answers a call, which is one reference taken under a
///    lock;
/// 2. everything that takes time (reading, verifying, warming, truncating, freeing) happens on this
///    thread, one task after another; the registry only decides;
/// 3. a version is swapped in only once it is complete, and the previous one lives until its last
///    call ends;
/// 4. what fails is remembered, and tried again when its files change or, ever more seldom, without
///    a change; what serves goes on serving.
final class Loader: Sendable {
  typealias Completion = @Sendable (Result<ModelStatus, ServerError>) -> Void

  private enum Task {
    case change(String, Registry.Change, generation: UInt64, Completion)
    case poll(@Sendable () -> Void)
    /// Give unused memory back to the system.
    case trim
    /// Only to be released, away from threads that must not wait.
    case release(ResidentVersion)
  }

  private struct State {
    var registry: Registry
    var failures: UInt64 = 0
    var trims: UInt64 = 0
    var tasks = Deque<Task>()
    var changesWaiting = 0
    var isPollWaiting = false
    var hasPolled = false
    var isStopping = false
    var pollFailures: [String] = []
    /// Versions that wait in `tasks` to be released.
    private var releasing: Set<ObjectIdentifier> = []

    init(_ registry: Registry) { self.registry = registry }

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
  private let limits: EngineLimits
  private let log: EventLog
  private let monitor: Monitor<State>
  private let thread = Monitor<WorkerThread?>(nil)

  init(
    repository: ModelRepository, limits: EngineLimits, granularityMax: Int?, log: EventLog
  ) {
    self.repository = repository
    self.limits = limits
    self.log = log
    monitor = Monitor(State(Registry(granularityMax: granularityMax, limits: limits)))
  }

  /// Starts the thread.
  func start() throws(ThreadError) {
    // Loading takes its time; calls do not wait for it.
    let worker = try WorkerThread(name: "loader", niceness: 10) { self.runTasks() }
    thread.change { $0 = worker }
  }

  /// Ends the thread after its current task, and waits for it.
  func stop() {
    monitor.change { $0.isStopping = true }
    thread.change { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }

  // MARK: For the engine; nothing here takes long

  /// Whether the repository has been read once.
  var hasPolled: Bool { monitor.read { $0.hasPolled } }

  /// What has happened since the start.
  var counts: LoaderCounts {
    monitor.read {
      LoaderCounts(swaps: $0.registry.swaps, failures: $0.failures, trims: $0.trims)
    }
  }

  /// Every model, by name.
  func list() -> [ModelStatus] { monitor.read { $0.registry.list() } }

  /// As `Registry.pin`.
  func pin(_ name: String, version: UInt64, field: String) throws(ServerError) -> ResidentVersion {
    try monitor.read { state throws(ServerError) in
      try state.registry.pin(name, version: version, field: field)
    }
  }

  /// Asks for a change; `completed` is called once it has taken effect or failed, on whatever
  /// thread.
  func submit(_ change: Registry.Change, to name: String, completed: @escaping Completion) {
    do throws(ServerError) {
      try monitor.change { state throws(ServerError) in
        guard state.changesWaiting < limits.administrationRequestsMax else {
          throw ServerError(
            .unavailable, "\(state.changesWaiting) changes wait already; try again later",
            retryAfterMilliseconds: limits.retryAfterLoadingMilliseconds)
        }
        let wish = try state.registry.wish(change, for: name)
        for version in wish.released { state.release(version) }
        state.changesWaiting += 1
        state.tasks.append(.change(name, change, generation: wish.generation, completed))
      }
    } catch {
      completed(.failure(error))
    }
  }

  /// Reads the repository again, unless that is about to happen already.
  func poll(completed: @escaping @Sendable () -> Void = {}) {
    monitor.change { state in
      guard !state.isPollWaiting else { return }
      state.isPollWaiting = true
      state.tasks.append(.poll(completed))
    }
  }

  /// Takes the last reference to a version, if this is one, to the loader's thread: freeing a
  /// dictionary takes too long for threads that must not wait.
  func release(_ version: ResidentVersion) {
    monitor.change { state in
      // What is kept anyway is freed by whoever lets go of it.
      if !state.registry.isKept(version) { state.release(version) }
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
        let result = carryOut(change, name, generation)
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
    monitor.change { $0.trims += 1 }
  }

  private func carryOut(_ change: Registry.Change, _ name: String, _ generation: UInt64)
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
    return .success(monitor.read { $0.registry.status(of: name) })
  }

  private func load(_ name: String, _ requested: UInt64, _ generation: UInt64)
    throws(ServerError)
  {
    let known = try known(name, requested)
    let number = requested == 0 ? known[known.count - 1] : requested
    try monitor.change { state throws(ServerError) in
      try state.registry.beginLoad(name, known: known, generation)
    }
    if try fetch(name, number, generation) {
      log.write(
        .swap, "\(name): version \(number) loaded by request",
        ["model": "\(name)", "version": "\(number)"])
    }
    try monitor.change { state throws(ServerError) in
      try state.registry.endLoad(name, isPinned: requested != 0, generation)
    }
  }

  /// Keeps a version for requests that name it; what serves stays.
  private func keepBeside(_ name: String, _ number: UInt64, _ generation: UInt64)
    throws(ServerError)
  {
    _ = try known(name, number)
    let entry = monitor.read { $0.registry.models[name] }
    guard let entry, entry.serving != nil, entry.generation == generation else {
      throw ServerError(
        .failedPrecondition,
        "load_model.beside: \(name) is not served, or is being changed; load it first")
    }
    let version: ResidentVersion
    if let resident = entry.resident(number) {
      version = resident
    } else {
      version = try read(name, number, latents: entry.latentsMax)
    }
    try monitor.change { state throws(ServerError) in
      try state.registry.keepBeside(version, name, generation)
    }
    log.write(
      .swap, "\(name): version \(number) is kept beside the one that serves",
      ["model": "\(name)", "version": "\(number)"])
  }

  /// The complete versions of a model, `requested` among them unless that is 0; never empty.
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

  /// Reads, verifies and warms a version unless it is in memory already, and serves it; false if it
  /// serves already.
  private func fetch(_ name: String, _ number: UInt64, _ generation: UInt64)
    throws(ServerError) -> Bool
  {
    let entry = monitor.read { $0.registry.models[name] }
    guard entry?.serving?.version != number else { return false }
    let fresh: ResidentVersion
    if let kept = entry?.beside[number] {
      fresh = kept
    } else {
      fresh = try read(name, number, latents: entry?.latentsMax)
    }
    let old = try monitor.change { state throws(ServerError) in
      try state.registry.serve(fresh, name, generation)
    }
    // If no call holds it any more, it is freed here, on the loader's thread.
    withExtendedLifetime(old) {}
    return true
  }

  /// Reads, verifies and warms a version. What cannot be loaded is remembered as failed.
  private func read(_ name: String, _ number: UInt64, latents: Int?) throws(ServerError)
    -> ResidentVersion
  {
    // Before reading: what changes meanwhile is tried again.
    let stamp = repository.stamp(of: name, version: number)
    monitor.change { $0.registry.reading(number, of: name) }
    defer { monitor.change { $0.registry.reading(nil, of: name) } }
    do {
      let version = try ResidentVersion(
        version: number, try repository.load(name, version: number, latents: latents))
      try version.warm()
      return version
    } catch {
      let isNews = monitor.change { state in
        state.failures += 1
        return state.registry.fail(name, number, "\(error)", stamp, now: .now)
      }
      if isNews { reportFailure(name, number, error) }
      throw ServerError(
        .failedPrecondition, "version \(number) of \(name) cannot be loaded: \(error)")
    }
  }

  private func reportFailure(_ name: String, _ number: UInt64, _ error: any Error) {
    log.write(
      .loadFailure, at: .error, "\(name): version \(number) cannot be loaded: \(error)",
      ["model": "\(name)", "version": "\(number)"])
  }

  private func resize(_ name: String, _ granularity: Int) throws(ServerError) {
    guard let entry = monitor.read({ $0.registry.models[name] }) else {
      throw ServerError(.notFound, "resize_model.name: there is no model \(name)")
    }
    guard let serving = entry.serving else {
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
    for (number, version) in entry.beside {
      beside[number] =
        version === serving
        ? fresh : try resized(version, name, to: granularity == 0 ? version.latents : granularity)
    }
    try monitor.change { [beside] state throws(ServerError) in
      try state.registry.resize(
        name, latentsMax: granularity == 0 ? nil : granularity, serving: fresh, beside: beside,
        entry.generation)
    }
    log.write(
      .swap, "\(name): \(wanted) of \(serving.latents) latents are resident",
      ["model": "\(name)", "version": "\(serving.version)", "latents": "\(wanted)"])
  }

  /// A version with `wanted` of its latents in memory, or all if it has fewer.
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
      monitor.change { $0.failures += 1 }
      reportFailure(name, version.version, error)
      throw ServerError(
        .failedPrecondition, "version \(version.version) of \(name) cannot be loaded: \(error)")
    }
  }

  // MARK: Following the repository

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
    monitor.change { $0.registry.observe(present) }
    for (name, _) in found {
      if monitor.read({ $0.isStopping }) { return }
      follow(name)
    }
  }

  /// Logs what went wrong while reading the repository, once for as long as it stays the same.
  private func report(_ failures: [String]) {
    let news = monitor.change { state in
      defer { state.pollFailures = failures }
      return failures.filter { !state.pollFailures.contains($0) }
    }
    for failure in news { log.write(.repository, at: .error, failure) }
  }

  /// Serves the newest version that can be loaded and is newer than the one that serves.
  private func follow(_ name: String) {
    let registry = monitor.read { $0.registry }
    guard let generation = registry.models[name]?.generation else { return }
    for number in registry.candidates(name) {
      guard
        registry.isWorthTrying(
          name, number, stamp: { repository.stamp(of: name, version: number) }, now: .now)
      else { continue }
      do throws(ServerError) {
        if try fetch(name, number, generation) {
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

/// What a loader has done since its start.
package struct LoaderCounts: Sendable {
  /// Times that another version, or the same with another size, took over.
  package var swaps: UInt64 = 0
  /// Versions that could not be loaded.
  package var failures: UInt64 = 0
  /// Times that unused memory was given back to the system.
  package var trims: UInt64 = 0
}
