import GranuleCalls
import GranuleDictionary
import GranuleTensors
import Synchronization

/// What a worker needs to know of any call.
struct AdmittedCall: Sendable {
  let ticket: Ticket
  let principal: UInt64
  let arrival: ContinuousClock.Instant
  let deadline: Deadline
  /// The one version of the model that answers all of the call.
  let version: ResidentVersion
  let sink: any ReplySink
}

/// A call that was admitted, as workers compute it: stage by stage, each in pieces.
protocol Job: AnyObject, Sendable {
  typealias Piece = Scheduler<any Job>.Piece

  var call: AdmittedCall { get }
  /// The stage that is being computed.
  var stage: StageProgress { get }
  var tokens: Int { get }
  /// Memory that a token takes, or passes through, while it is computed.
  var bytesPerToken: Int { get }

  /// Computes a piece, or gives the rows of it that are encoded together with those of other jobs.
  ///
  /// - Parameter pressure: by how many granularities to cut a call that allows it.
  /// - Throws: why the piece cannot be computed.
  func begin(_ piece: Piece, pressure: Int) throws(ServerError) -> EncodeRows?

  /// What the stage came to, once all its pieces are computed.
  func answer(_ stage: StageProgress.Stage, pressure: Int) -> StageAnswer
}

/// What a stage came to.
struct StageAnswer {
  /// The reply, or why there is none.
  var result: Result<Reply, ServerError>
  /// No stage comes after this one.
  var isLast: Bool
  /// The answer is at a smaller granularity, or has fewer stages, than asked for.
  var isShed = false
  /// What the stage took; nil if it failed.
  var measure: StageMeasure?

  /// The end of a call that failed.
  static func failure(_ error: ServerError) -> StageAnswer {
    StageAnswer(result: .failure(error), isLast: true)
  }

  /// The end of a call whose time has run out.
  static let expired = failure(
    ServerError(
      .deadlineExceeded, "timeout_ms: ran out before the request was computed; allow more time"))
}

extension Job {
  /// What the scheduler must know of the job, for a stage that waits from `since` on.
  func scheduled(since: ContinuousClock.Instant) -> Scheduler<any Job>.Work {
    Scheduler<any Job>.Work(
      serial: call.ticket.serial, principal: call.principal,
      group: ObjectIdentifier(call.version), tokens: tokens, bytesPerToken: bytesPerToken,
      since: since, deadline: call.deadline.moment)
  }

  /// Begins a piece, unless nobody wants it any more.
  func beginIfWanted(_ piece: Piece, pressure: Int) throws(ServerError) -> EncodeRows? {
    stage.start()
    if call.ticket.isSettled { throw ServerError(.cancelled, "the request was cancelled") }
    if call.deadline.hasPassed(at: .now), case .failure(let error) = StageAnswer.expired.result {
      throw error
    }
    return try begin(piece, pressure: pressure)
  }

  /// Ends a piece; the last one of a stage gives the stage's answer.
  ///
  /// - Parameter pressure: above 0 a call that allows it ends with this stage.
  func finish(_ piece: Piece, _ failure: ServerError?, pressure: Int) -> StageAnswer? {
    guard let done = stage.end(piece.index, of: piece.count, failure) else { return nil }
    // The same error whichever piece failed first.
    if let failure = done.failures.min(by: { $0.piece < $1.piece }) {
      return .failure(failure.error)
    }
    return answer(done, pressure: pressure)
  }
}

/// How far the pieces of a stage are.
final class StageProgress: Sendable {
  /// A stage.
  struct Stage {
    /// When its wait for a worker began.
    let since: ContinuousClock.Instant
    /// When a worker took its first piece.
    fileprivate(set) var started: ContinuousClock.Instant?
    fileprivate(set) var failures: [(piece: Int, error: ServerError)] = []
    fileprivate var piecesDone = 0

    /// How long it waited for a worker, and has been computed until `now`; in nanoseconds.
    func nanoseconds(until now: ContinuousClock.Instant) -> (queue: UInt64, compute: UInt64) {
      let begin = started ?? since
      return (begin.nanoseconds(since: since), now.nanoseconds(since: begin))
    }
  }
  private let stage: Mutex<Stage>

  /// The first stage, which waits since the call's arrival.
  init(since arrival: ContinuousClock.Instant) { stage = Mutex(Stage(since: arrival)) }

  /// A worker has a piece.
  func start() { stage.withLock { if $0.started == nil { $0.started = .now } } }

  /// A piece has ended; gives the stage if it was the last one.
  func end(_ piece: Int, of count: Int, _ failure: ServerError?) -> Stage? {
    stage.withLock { stage in
      if let failure { stage.failures.append((piece, failure)) }
      stage.piecesDone += 1
      return stage.piecesDone == count ? stage : nil
    }
  }

  /// The next stage waits from `now` on.
  func next(_ now: ContinuousClock.Instant) { stage.withLock { $0 = Stage(since: now) } }
}

extension ContinuousClock.Instant {
  /// Nanoseconds from `start` to this moment; 0 if it lies before.
  fileprivate func nanoseconds(since start: ContinuousClock.Instant) -> UInt64 {
    let (seconds, attoseconds) = start.duration(to: self).components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return UInt64(seconds) &* 1_000_000_000 &+ UInt64(attoseconds / 1_000_000_000)
  }
}

extension PackedTensor {
  /// Float32 rows that lie in `block`.
  init(_ block: MemoryBlock, tokens: Int, width: Int) {
    self.init(
      type: .float32, shape: [UInt32(tokens), UInt32(width)], data: SharedBytes(block))
  }
}
