import Glibc
public import GranuleCalls
import GranuleRepository
import GranuleThreads
import Synchronization

/// Answers calls with the models of a repository, on threads of its own.
///
/// The way of a call: it is checked against its model and the room there is (`Admission`, `Ledger`),
/// waits for its turn (`Scheduler`), is computed in pieces (`Workers`, `Job`), and each stage goes to
/// the caller's `ReplySink` (`Delivery`). Nothing here knows a protocol: servers and embedded callers
/// enter by the same door.
public final class Engine: Sendable {
  /// What a call came to when it was submitted.
  public enum Submission: Sendable {
    /// The reply; the sink is not asked.
    case answered(Reply)
    /// The sink is given the replies. Keep the ticket until then.
    case pending(Ticket)
  }

  /// What callers hold, in bytes.
  public let ledger = Ledger()
  package let log: EventLog
  private let options: EngineOptions
  private let admission: Admission
  private let loader: Loader
  private let workers: Workers
  private let clock: Timekeeper
  private let delivery: Delivery
  private let started = ContinuousClock.now
  private let lastSerial = Atomic<UInt64>(0)
  private let isDraining = Atomic<Bool>(false)
  /// The last call at the last sweep, since when it has been the last, and whether unused memory has
  /// been given back since.
  private let quiet = Mutex((serial: UInt64(0), since: ContinuousClock.now, isTrimmed: false))

  /// Starts an engine; returns once the repository has been read once.
  ///
  /// Models that cannot be loaded do not keep it from starting: they are logged and listed as failed.
  ///
  /// - Throws: `EngineStartError` if the repository is not a folder, or an error that says which
  ///   thread could not be started.
  public init(_ options: EngineOptions) throws {
    var status = stat()
    guard stat(options.repository, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      throw EngineStartError(
        description:
          "repository \(options.repository): is not a folder; publish a dictionary first")
    }
    let limits = options.limits
    let log = EventLog(options.logger, burst: limits.logBurst, interval: limits.logInterval)
    let loader = Loader(
      repository: ModelRepository(path: options.repository), limits: limits,
      granularityMax: options.granularityMax, log: log)
    let delivery = Delivery(modelsMax: limits.metricsModelsMax)
    try loader.start()
    do {
      let polled = Handover<Bool>()
      loader.poll { polled.give(true) }
      _ = polled.take()
      let workers = try Workers(
        count: max(options.workers ?? Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))), 1),
        limits: limits
      ) { job, answer in delivery.deliver(answer, job.call.ticket, job.call.sink) }
      do {
        clock = try Timekeeper(
          pollInterval: options.pollInterval, poll: { loader.poll() },
          expire: {
            let (jobs, next) = workers.removeExpired()
            for job in jobs {
              delivery.deliver(.expired, job.call.ticket, job.call.sink)
              loader.release(job.call.version)
            }
            return next
          })
      } catch {
        workers.stop()
        throw error
      }
      self.workers = workers
    } catch {
      loader.stop()
      throw error
    }
    self.options = options
    self.log = log
    self.loader = loader
    self.delivery = delivery
    admission = Admission(limits: limits)
  }

  // MARK: Calls

  /// Takes a call. Nothing here takes long.
  ///
  /// - Parameters:
  ///   - account: who asks, from `ledger`.
  ///   - requestBytes: memory that the call takes; nil counts its arrays.
  ///   - sink: where the replies go; it may be given one before this function returns.
  /// - Throws: why the call is refused, naming the field, the limit and the remedy.
  public func submit(
    _ call: Call, from account: Ledger.Account, deadline: Deadline = .none,
    requestBytes: Int? = nil, to sink: any ReplySink
  ) throws(ServerError) -> Submission {
    do throws(ServerError) {
      try call.validate()
      switch call {
      case .encode(let request):
        let version = try loader.pin(request.model, version: request.version, field: "encode")
        let plan = try admission.plan(
          request, on: version, requestBytes: requestBytes ?? request.activations.data.count, sink)
        return .pending(try admit(plan, .encode, account, deadline, sink))
      case .decode(let request):
        let version = try loader.pin(request.model, version: request.version, field: "decode")
        let plan = try admission.plan(
          request, on: version, requestBytes: requestBytes ?? request.codes.byteCount, sink)
        return .pending(try admit(plan, .decode, account, deadline, sink))
      case .listModels: return answer(call, .models(loader.list()))
      case .status: return answer(call, .status(status()))
      case .loadModel(let name, let version, let beside):
        return try administer(call, .load(version: version, beside: beside), name, account, sink)
      case .unloadModel(let name, let version):
        return try administer(call, .unload(version: version), name, account, sink)
      case .resizeModel(let name, let granularity):
        return try administer(call, .resize(granularity: granularity), name, account, sink)
      }
    } catch {
      delivery.record(call.method, error.code)
      throw error
    }
  }

  private func answer(_ call: Call, _ reply: Reply) -> Submission {
    delivery.record(call.method, nil)
    return .answered(reply)
  }

  private func admit(
    _ plan: Admission.Plan, _ method: CallMethod, _ account: Ledger.Account, _ deadline: Deadline,
    _ sink: any ReplySink
  ) throws(ServerError) -> Ticket {
    let principal = account.principal.id
    do throws(ServerError) {
      try admission.reserve(
        plan, workers.queue(of: principal, adding: plan.tokens), account, ledger)
    } catch {
      delivery.countRefused()
      throw error
    }
    let ticket = Ticket(
      method, serial: lastSerial.add(1, ordering: .relaxed).newValue, isCancellable: true,
      account: account, bytes: plan.bytes)
    let job = plan.job(
      AdmittedCall(
        ticket: ticket, principal: principal, arrival: .now, deadline: deadline,
        version: plan.version, sink: sink))
    clock.expect(workers.submit(job))
    return ticket
  }

  private func administer(
    _ call: Call, _ change: Registry.Change, _ name: String, _ account: Ledger.Account,
    _ sink: any ReplySink
  ) throws(ServerError) -> Submission {
    guard account.principal.mayAdminister else {
      throw ServerError(
        .permissionDenied,
        "\(call.method.rawValue): is answered at the server's admin address only")
    }
    let ticket = Ticket(
      call.method, serial: 0, isCancellable: false, account: account, bytes: 0)
    loader.submit(change, to: name) { [delivery] result in
      delivery.deliver(
        StageAnswer(result: result.map { .model($0) }, isLast: true), ticket, sink)
    }
    return .pending(ticket)
  }

  /// Ends a call that is computed or waits to be; its sink is given no more replies.
  ///
  /// - Returns: false if the call cannot be cancelled, or its last reply is on its way.
  public func cancel(_ ticket: Ticket) -> Bool {
    guard ticket.isCancellable, ticket.settle() else { return false }
    delivery.countCancelled(ticket.method)
    ticket.close()
    if let job = workers.remove(ticket.serial) { loader.release(job.call.version) }
    return true
  }

  /// Lets go of a call that nobody waits for any more; a change by administration is still carried
  /// out.
  public func abandon(_ ticket: Ticket) {
    if !cancel(ticket) { _ = ticket.settle() }
    ticket.close()
  }

  /// Counts a request that never became a call, or was answered without the engine; a nil code is
  /// success.
  package func record(_ method: CallMethod, _ code: ErrorCode?) { delivery.record(method, code) }

  // MARK: State

  /// Whether calls are taken: the repository has been read once, and the engine is not draining.
  public var isReady: Bool { loader.hasPolled && !isDraining.load(ordering: .relaxed) }

  /// The load, and the counts since the start.
  public func status() -> ServerStatus { status(workers.statistics) }

  private func status(_ statistics: Workers.Statistics) -> ServerStatus {
    let counts = delivery.counts
    return ServerStatus(
      ready: isReady, serverVersion: options.version,
      connections: UInt32(clamping: ledger.accounts),
      queuedRequests: UInt32(clamping: statistics.waitingRequests),
      queuedTokens: UInt64(statistics.waitingTokens),
      uptimeSeconds: started.duration(to: .now) / .seconds(1),
      pressure: UInt32(statistics.pressure), computedRequests: statistics.started,
      batches: statistics.batches, shedRequests: statistics.shed,
      refusedRequests: counts.refused, expiredRequests: statistics.expired,
      cancelledRequests: counts.cancelled)
  }

  /// Everything that metrics tell of the engine, at one moment.
  package func snapshot() -> EngineSnapshot {
    let statistics = workers.statistics
    return EngineSnapshot(
      status: status(statistics), expectedWait: statistics.expectedWait,
      bytes: ledger.bytes, metrics: delivery.metrics, loads: loader.counts,
      suppressedLogLines: log.suppressed, models: loader.list(),
      modelsMax: options.limits.metricsModelsMax)
  }

  /// To be called now and then: gives memory back that has not been used for a while.
  package func sweep(now: ContinuousClock.Instant) {
    let serial = lastSerial.load(ordering: .relaxed)
    let isBusy = ledger.bytes.admitted > 0
    let trims = quiet.withLock { quiet in
      guard !isBusy, serial == quiet.serial else {
        quiet = (serial, now, false)
        return false
      }
      guard !quiet.isTrimmed, quiet.since.duration(to: now) >= options.limits.trimAfter else {
        return false
      }
      quiet.isTrimmed = true
      return true
    }
    if trims { loader.trimMemory() }
  }

  // MARK: Stopping

  /// Reports from now on that no more calls are taken.
  public func beginDraining() { isDraining.store(true, ordering: .relaxed) }

  /// Ends the threads after the pieces they are at, and waits for them. Calls that wait are not
  /// answered.
  ///
  /// - Parameter finishingLoad: false if the process ends next: then a dictionary that is being read,
  ///   which may take long, is not waited for.
  public func stop(finishingLoad: Bool = true) {
    clock.stop()
    workers.stop()
    if finishingLoad { loader.stop() }
  }
}

/// What metrics tell of an engine, at one moment.
package struct EngineSnapshot: Sendable {
  package var status: ServerStatus
  package var expectedWait: Duration
  package var bytes: Ledger.Bytes
  package var metrics: EngineMetrics
  package var loads: LoaderCounts
  package var suppressedLogLines: UInt64
  /// The models of the repository, by name.
  package var models: [ModelStatus]
  /// Models with metrics of their own.
  package var modelsMax: Int
}
