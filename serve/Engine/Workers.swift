import GranuleCalls
import GranuleThreads

/// The threads that compute, and the jobs that wait for them.
final class Workers: Sendable {
  /// What waits, and what has been done since the start.
  struct Statistics: Sendable {
    var waitingRequests = 0
    var waitingTokens = 0
    /// By how many granularities calls that allow it are cut.
    var pressure = 0
    /// How long all that waits is expected to take.
    var expectedWait = Duration.zero
    /// Calls computed, in whole or in part.
    var started: UInt64 = 0
    /// Calls answered at a smaller granularity, or in fewer stages, than they asked for.
    var shed: UInt64 = 0
    /// Calls whose time ran out before a worker took them.
    var expired: UInt64 = 0
    var batches: UInt64 = 0
  }

  /// What a call that comes now finds waiting.
  struct Queue: Sendable {
    /// Tokens that wait, of all principals and of the one that asks.
    var tokens = 0
    var ownTokens = 0
    /// How long the call is expected to wait.
    var expectedWait = Duration.zero
  }

  private struct State {
    var scheduler: Scheduler<any Job>
    var gauge: PressureGauge
    var estimate: WaitEstimate
    var busy = 0
    var isStopping = false
    var statistics = Statistics()
  }
  private enum Order {
    case compute(Batch, expired: [any Job])
    case stop
  }
  typealias Deliver = @Sendable (any Job, StageAnswer) -> Void

  /// The most threads that share a batch: each worker keeps memory for this many.
  private static let threadsPerBatchMax = 8

  private let monitor: Monitor<State>
  private let threads: [WorkerThread]

  /// Starts `count` threads, which call `deliver` with every answer.
  init(count: Int, limits: EngineLimits, deliver: @escaping Deliver) throws(ThreadError) {
    let monitor = Monitor(
      State(
        scheduler: Scheduler(
          batchTokensMax: limits.batchTokensMax, batchBytesMax: limits.batchBytesMax,
          pieceTokensMin: limits.pieceTokensMin),
        gauge: PressureGauge(
          high: limits.shedAbove, low: limits.shedBelow, interval: limits.shedInterval),
        estimate: WaitEstimate(batchTokensMax: limits.batchTokensMax, workers: count)))
    self.monitor = monitor
    var threads: [WorkerThread] = []
    for _ in 0..<count {
      threads.append(
        try WorkerThread(name: "compute") {
          Self.work(monitor, workers: count, deliver: deliver)
        })
    }
    self.threads = threads
  }

  // MARK: On the workers' threads

  private static func work(_ monitor: Monitor<State>, workers: Int, deliver: Deliver) {
    let workspace = Workspace(threads: min(workers, Self.threadsPerBatchMax))
    while true {
      let order = monitor.wait { state in Self.nextOrder(&state, workers: workers) }
      guard case .compute(let batch, let expired) = order else { return }
      for job in expired { deliver(job, .expired) }
      let begin = ContinuousClock.now
      batch.run(workspace) { job, answer in
        // Before the next stage can be answered by another worker.
        deliver(job, answer)
        if answer.isShed { monitor.change { $0.statistics.shed += 1 } }
        if !answer.isLast { Self.resume(job, monitor) }
      }
      monitor.change { state in
        state.busy -= 1
        if !batch.pieces.isEmpty { state.estimate.record(begin.duration(to: .now)) }
      }
    }
  }

  private static func nextOrder(_ state: inout State, workers: Int) -> Order? {
    if state.isStopping { return .stop }
    let now = ContinuousClock.now
    let expired = state.scheduler.removeExpired(now: now)
    state.statistics.expired += UInt64(expired.count)
    let idleWorkers = workers - state.busy - 1
    let pieces = state.scheduler.nextBatch(idleWorkers: idleWorkers)
    guard !pieces.isEmpty || !expired.isEmpty else { return nil }
    for piece in pieces where piece.index == 0 {
      state.gauge.record(wait: piece.since.duration(to: now), now: now)
      if piece.since == piece.item.call.arrival { state.statistics.started += 1 }
    }
    if !pieces.isEmpty { state.statistics.batches += 1 }
    state.busy += 1
    // While others have nothing to do, a batch may use their cores.
    let threads =
      state.scheduler.waitingTokens == 0 ? min(1 + idleWorkers, threadsPerBatchMax) : 1
    return .compute(
      Batch(pieces: pieces, pressure: state.gauge.level, threads: threads), expired: expired)
  }

  /// Queues the next stage of a job, unless nobody wants it any more.
  private static func resume(_ job: any Job, _ monitor: Monitor<State>) {
    monitor.change { state in
      guard !job.call.ticket.isSettled else { return }
      state.scheduler.add(job, job.scheduled(since: .now), isResumed: true)
    }
  }

  // MARK: For the engine

  /// Queues a job; gives the moment at which `removeExpired` should be called.
  func submit(_ job: any Job) -> ContinuousClock.Instant? {
    monitor.change {
      $0.scheduler.add(job, job.scheduled(since: job.call.arrival))
      return $0.scheduler.nextDeadline
    }
  }

  /// Takes back a job if no worker has a piece of it. Once its ticket is settled no further stage of
  /// it begins.
  func remove(_ serial: UInt64) -> (any Job)? {
    monitor.change { $0.scheduler.remove(serial) }
  }

  /// Takes back the jobs whose time has run out while they waited; and says when to ask again.
  func removeExpired() -> (jobs: [any Job], next: ContinuousClock.Instant?) {
    monitor.change { state in
      let expired = state.scheduler.removeExpired(now: .now)
      state.statistics.expired += UInt64(expired.count)
      return (expired, state.scheduler.nextDeadline)
    }
  }

  /// What `tokens` more of a principal would find.
  func queue(of principal: UInt64, adding tokens: Int) -> Queue {
    monitor.read { state in
      let ahead = state.scheduler.tokensAhead(of: principal, adding: tokens)
      return Queue(
        tokens: state.scheduler.waitingTokens,
        ownTokens: state.scheduler.waitingTokens(of: principal),
        expectedWait: state.estimate.wait(behind: ahead))
    }
  }

  /// What waits, and what has been done.
  var statistics: Statistics {
    monitor.read { state in
      var statistics = state.statistics
      statistics.waitingRequests = state.scheduler.waitingRequests
      statistics.waitingTokens = state.scheduler.waitingTokens
      statistics.pressure =
        state.scheduler.waitingTokens == 0 ? state.gauge.level(idleAt: .now) : state.gauge.level
      statistics.expectedWait = state.estimate.wait(behind: state.scheduler.waitingTokens)
      return statistics
    }
  }

  /// Ends the threads after the pieces they are at, and waits for them.
  func stop() {
    monitor.change { $0.isStopping = true }
    for thread in threads { thread.join() }
  }
}
