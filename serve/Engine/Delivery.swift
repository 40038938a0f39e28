import GranuleCalls
import Synchronization

/// The way of an answer from whoever made it to the caller's sink: each call ends exactly once, and
/// is counted before its answer can be seen.
final class Delivery: Sendable {
  private let state: Mutex<EngineMetrics>

  init(modelsMax: Int) { state = Mutex(EngineMetrics(modelsMax: modelsMax)) }

  /// What has been counted.
  var metrics: EngineMetrics { state.withLock { $0 } }

  /// Calls for which there was no room, and calls that nobody waited for.
  var counts: (refused: UInt64, cancelled: UInt64) {
    state.withLock { ($0.refused, $0.cancelled) }
  }

  /// Packs an answer on the calling thread and sends it, unless the call has ended meanwhile.
  func deliver(_ answer: StageAnswer, _ ticket: Ticket, _ sink: any ReplySink) {
    guard !ticket.isSettled else { return }
    var answer = answer
    let packed: PackedReply
    switch answer.result {
    case .success(let reply):
      do throws(ServerError) { packed = try sink.pack(reply, isLast: answer.isLast) } catch {
        answer = .failure(error)
        packed = sink.pack(error)
      }
    case .failure(let error): packed = sink.pack(error)
    }
    guard answer.isLast ? ticket.settle() : !ticket.isSettled else { return }
    state.withLock { metrics in
      if let measure = answer.measure { metrics.record(measure, isLast: answer.isLast) }
      guard answer.isLast else { return }
      switch answer.result {
      case .success: metrics.record(ticket.method, nil)
      case .failure(let error): metrics.record(ticket.method, error.code)
      }
    }
    packed.send()
  }

  /// Counts a request that was answered at once; a nil code is success.
  func record(_ method: CallMethod, _ code: ErrorCode?) {
    state.withLock { $0.record(method, code) }
  }

  /// Counts a call for which there was no room.
  func countRefused() { state.withLock { $0.refused += 1 } }

  /// Counts a call that nobody waits for any more.
  func countCancelled(_ method: CallMethod) {
    state.withLock { metrics in
      metrics.cancelled += 1
      metrics.record(method, .cancelled)
    }
  }
}
