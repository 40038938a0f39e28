import EventLoop
import Wire

/// The threads that compute, and the requests that wait for them.
final class ComputeWorkers: Sendable {
  /// What a job came to: a frame ready to be sent.
  struct Answer: Sendable {
    let connection: UInt64
    let requestID: UInt64
    let serial: UInt64
    let frame: PackedFrame
  }

  private struct State {
    var scheduler: Scheduler<ComputeJob>
    var busy = 0
    var isStopping = false
  }
  private enum Order {
    case compute(Scheduler<ComputeJob>.Piece)
    case stop
  }
  private let monitor: Monitor<State>
  private let threads: [WorkerThread]

  /// Starts `count` threads, which call `deliver` with every answer.
  init(count: Int, limits: ServerLimits, deliver: @escaping @Sendable (Answer) -> Void)
    throws(EventLoopError)
  {
    let monitor = Monitor(
      State(
        scheduler: Scheduler(
          pieceTokensMax: limits.pieceTokensMax, pieceTokensMin: limits.pieceTokensMin)))
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

  private static func work(
    _ monitor: Monitor<State>, workers: Int, deliver: (Answer) -> Void
  ) {
    let workspace = Workspace()
    while true {
      let order = monitor.wait { state -> Order? in
        if state.isStopping { return .stop }
        return state.scheduler.next(idleWorkers: workers - state.busy - 1).map {
          state.busy += 1
          return .compute($0)
        }
      }
      guard case .compute(let piece) = order else { return }
      let job = piece.item
      let frame = job.run(piece, workspace: workspace)
      monitor.change { $0.busy -= 1 }
      if let frame {
        deliver(
          Answer(
            connection: job.connection, requestID: job.requestID, serial: job.ticket.serial,
            frame: frame))
      }
    }
  }

  /// Queues a job.
  func submit(_ job: ComputeJob) {
    monitor.change {
      $0.scheduler.add(
        job, serial: job.ticket.serial, connection: job.connection, tokens: job.tokens,
        isDivisible: job.isDivisible)
    }
  }

  /// Takes back a job that no worker has started.
  func remove(_ serial: UInt64) -> ComputeJob? {
    monitor.change { $0.scheduler.remove(serial) }
  }

  /// What waits for a worker.
  var waiting: (requests: Int, tokens: Int) {
    monitor.read { ($0.scheduler.waitingRequests, $0.scheduler.waitingTokens) }
  }

  /// Ends the threads after the pieces they are at, and waits for them.
  func stop() {
    monitor.change { $0.isStopping = true }
    for thread in threads { thread.join() }
  }
}
