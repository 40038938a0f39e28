import GranuleThreads
import GranuleTransport
import GranuleWire

/// The threads that compute, and the requests that wait for them.
final class ComputeWorkers: Sendable {
  /// What a stage of a job came to: a frame ready to be sent.
  struct Answer: Sendable {
    let connection: UInt64
    let requestID: UInt64
    let serial: UInt64
    let frame: PackedFrame
    /// No other answer to the request comes after this one.
    let isLast: Bool
    /// What the stage took, or why there is none.
    let outcome: Result<StageMeasure, ServerError>
  }

  /// What waits, and what has been done since the start.
  struct Statistics: Sendable {
    var waitingRequests = 0
    var waitingTokens = 0
    /// How many granularities less requests are given that allow it.
    var pressure = 0
    /// How long all that waits will take, as far as can be told.
    var expectedWait = Duration.zero
    /// Requests computed, in whole or in part.
    var started: UInt64 = 0
    /// Requests given a smaller granularity, or fewer stages, than they asked for.
    var shed: UInt64 = 0
    /// Requests whose time ran out before a worker took them.
    var expired: UInt64 = 0
    var batches: UInt64 = 0
  }

  /// What a request finds before it that comes now.
  struct Queue: Sendable {
    /// Tokens that wait, of all connections and of its own.
    var tokens = 0
    var ownTokens = 0
    /// How long it will wait, as far as can be told.
    var expectedWait = Duration.zero
  }

  private struct State {
    var scheduler: Scheduler<ComputeJob>
    var gauge: PressureGauge
    var estimate: WaitEstimate
    var busy = 0
    var isStopping = false
    var statistics = Statistics()
  }
  private enum Order {
    case compute(ComputeBatch, expired: [ComputeJob])
    case stop
  }
  typealias Deliver = @Sendable (Answer) -> Void

  /// Each worker keeps memory for so many.
  private static let threadsPerBatchMax = 8

  private let monitor: Monitor<State>
  private let threads: [WorkerThread]

  /// Starts `count` threads, which call `deliver` with every answer.
  init(count: Int, limits: ServerLimits, deliver: @escaping Deliver) throws(ThreadError) {
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
      for job in expired { deliver(Self.expiry(of: job)) }
      let begin = ContinuousClock.now
      batch.run(workspace) { job, answer in
        // Before the next stage can be answered by another worker.
        deliver(
          Answer(
            connection: job.connection, requestID: job.requestID, serial: job.ticket.serial,
            frame: answer.frame, isLast: answer.isLast, outcome: answer.outcome))
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
      if piece.since == piece.item.arrival { state.statistics.started += 1 }
    }
    if !pieces.isEmpty { state.statistics.batches += 1 }
    state.busy += 1
    // While others have nothing to do, a batch may use their cores.
    let threads =
      state.scheduler.waitingTokens == 0 ? min(1 + idleWorkers, threadsPerBatchMax) : 1
    return .compute(
      ComputeBatch(pieces: pieces, pressure: state.gauge.level, threads: threads), expired: expired)
  }

  /// Queues the next stage of a job, unless nobody wants it any more.
  private static func resume(_ job: ComputeJob, _ monitor: Monitor<State>) {
    monitor.change { state in
      guard !job.ticket.isCancelled else { return }
      state.scheduler.add(job, job.scheduled(since: .now), isResumed: true)
    }
  }

  private static func expiry(of job: ComputeJob) -> Answer {
    Answer(
      connection: job.connection, requestID: job.requestID, serial: job.ticket.serial,
      frame: Response(id: job.requestID, result: .failure(ComputeJob.expired)).packed(),
      isLast: true, outcome: .failure(ComputeJob.expired))
  }

  // MARK: For the event loop

  /// Queues a job; gives the moment at which `removeExpired` should be called.
  func submit(_ job: ComputeJob) -> ContinuousClock.Instant? {
    monitor.change {
      $0.scheduler.add(job, job.scheduled(since: job.arrival))
      return $0.scheduler.nextDeadline
    }
  }

  /// Takes back a job of which no worker has a piece. After `ticket.cancel()` no further stage of it
  /// is begun.
  func remove(_ serial: UInt64) -> ComputeJob? {
    monitor.change { $0.scheduler.remove(serial) }
  }

  /// Takes back the jobs whose time has run out while they waited.
  ///
  /// - Returns: their answers; the jobs, to be released elsewhere; when to call this again.
  func removeExpired() -> (
    answers: [Answer], jobs: [ComputeJob], next: ContinuousClock.Instant?
  ) {
    let (jobs, next) = monitor.change { state in
      let expired = state.scheduler.removeExpired(now: .now)
      state.statistics.expired += UInt64(expired.count)
      return (expired, state.scheduler.nextDeadline)
    }
    return (jobs.map { Self.expiry(of: $0) }, jobs, next)
  }

  /// What `tokens` more of a connection would find.
  func queue(of connection: UInt64, adding tokens: Int) -> Queue {
    monitor.read { state in
      let ahead = state.scheduler.tokensAhead(of: connection, adding: tokens)
      return Queue(
        tokens: state.scheduler.waitingTokens,
        ownTokens: state.scheduler.waitingTokens(of: connection),
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
