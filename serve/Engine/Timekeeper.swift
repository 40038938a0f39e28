import GranuleThreads

/// The engine's clock: a thread that has the repository read again and again, and tells calls that
/// wait when their time has run out.
final class Timekeeper: Sendable {
  private struct State {
    var nextPoll: ContinuousClock.Instant
    /// When the first call that waits runs out of time.
    var nextExpiry: ContinuousClock.Instant?
    var isStopping = false

    var next: ContinuousClock.Instant { nextExpiry.map { min($0, nextPoll) } ?? nextPoll }
  }
  private enum Order {
    case poll
    case expire
    case stop
  }
  private let monitor: Monitor<State>
  private let thread: WorkerThread

  /// Starts the thread.
  ///
  /// - Parameters:
  ///   - poll: called every `pollInterval`.
  ///   - expire: called at the moments given to `expect`; gives the next such moment.
  init(
    pollInterval: Duration, poll: @escaping @Sendable () -> Void,
    expire: @escaping @Sendable () -> ContinuousClock.Instant?
  ) throws(ThreadError) {
    let monitor = Monitor(State(nextPoll: .now + pollInterval))
    self.monitor = monitor
    thread = try WorkerThread(name: "clock") {
      while true {
        let order = monitor.wait(alarm: { $0.next }) { state -> Order? in
          if state.isStopping { return .stop }
          let now = ContinuousClock.now
          if let expiry = state.nextExpiry, expiry <= now {
            state.nextExpiry = nil
            return .expire
          }
          guard state.nextPoll <= now else { return nil }
          state.nextPoll = now + pollInterval
          return .poll
        }
        switch order {
        case .poll: poll()
        case .expire: Self.expect(expire(), monitor)
        case .stop: return
        }
      }
    }
  }

  /// Has `expire` called at `moment`, or earlier.
  func expect(_ moment: ContinuousClock.Instant?) { Self.expect(moment, monitor) }

  private static func expect(_ moment: ContinuousClock.Instant?, _ monitor: Monitor<State>) {
    guard let moment, monitor.read({ $0.nextExpiry.map { moment < $0 } ?? true }) else { return }
    monitor.change { $0.nextExpiry = $0.nextExpiry.map { min($0, moment) } ?? moment }
  }

  /// Ends the thread and waits for it.
  func stop() {
    monitor.change { $0.isStopping = true }
    thread.join()
  }
}
