import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import GranuleWire
import Synchronization

/// A request that was admitted, and the one version of a model that answers all of it, stage by
/// stage.
///
/// The event loop holds only a job's ticket: the last reference to a version, whose memory takes
/// long to free, then never ends there.
final class ComputeJob: Sendable {
  typealias Piece = Scheduler<ComputeJob>.Piece

  /// One granularity to encode at; `k` is 0 where the selection rule has none.
  struct Stage: Sendable {
    let granularity: Int
    let k: Int
  }

  /// What to compute.
  enum Work: Sendable {
    /// Encode tokens at each of `stages`; where there is one only, `fallbacks` may take its place
    /// under load, the largest first.
    case encode(EncodeRequest, tokens: Int, stages: [Stage], fallbacks: [Stage])
    /// Turn codes back into activations.
    case decode(DecodeRequest, tokens: Int)
  }

  /// What the event loop keeps of a job in flight.
  final class Ticket: Sendable {
    let serial: UInt64
    let method: RequestMethod
    private let cancelled = Atomic<Bool>(false)
    init(serial: UInt64, method: RequestMethod) {
      self.serial = serial
      self.method = method
    }
    /// Nobody waits for the answer any more.
    func cancel() { cancelled.store(true, ordering: .relaxed) }
    var isCancelled: Bool { cancelled.load(ordering: .relaxed) }
  }

  /// What a stage came to.
  struct Answer {
    /// Ready to be sent.
    let frame: PackedFrame
    /// No stage comes after this one.
    let isLast: Bool
    /// A smaller granularity, or fewer stages, than asked for.
    let isShed: Bool
    /// What the stage took, or why there is none.
    let outcome: Result<StageMeasure, ServerError>
  }

  /// What the workers have done so far.
  private struct Progress {
    var stage = 0
    /// Of the stage that is being computed.
    var computed: Stage?
    var since: ContinuousClock.Instant
    var started: ContinuousClock.Instant?
    var codes: [SparseCodes?] = []
    var failures: [(piece: Int, error: ServerError)] = []
    var piecesDone = 0
    /// The codes of the stage before, where stages carry changes only.
    var previous: PackedCodes?
  }

  let ticket: Ticket
  let connection: UInt64
  let requestID: UInt64
  let arrival: ContinuousClock.Instant
  let deadline: ContinuousClock.Instant?
  let version: ResidentVersion
  let work: Work
  private let frameBytesMax: Int
  private let progress: Mutex<Progress>
  /// ‖x − x̂‖² of each token; pieces write ranges of their own.
  private let squaredErrors: MemoryBlock
  /// Σ‖x − mean‖² of each block of tokens; pieces start at whole blocks and write blocks of their
  /// own.
  private let variances: MemoryBlock
  /// What each stage leaves for the next, where there are several; pieces encode ranges of their own.
  let encodeProgress: EncodeProgress?
  /// x̂ of each token, where it is wanted; pieces write ranges of their own.
  private let reconstruction: MemoryBlock?

  init(
    ticket: Ticket, connection: UInt64, requestID: UInt64, arrival: ContinuousClock.Instant,
    deadline: ContinuousClock.Instant?, version: ResidentVersion, work: Work, frameBytesMax: Int
  ) {
    self.ticket = ticket
    self.connection = connection
    self.requestID = requestID
    self.arrival = arrival
    self.deadline = deadline
    self.version = version
    self.work = work
    self.frameBytesMax = frameBytesMax
    progress = Mutex(Progress(since: arrival))
    let rowBytes = version.dictionary.dModel * MemoryLayout<Float>.size
    switch work {
    case .encode(let request, let tokens, let stages, _):
      encodeProgress =
        stages.count > 1
        ? EncodeProgress(tokens: tokens, kMax: stages.reduce(0) { max($0, $1.k) }) : nil
      squaredErrors = MemoryBlock(byteCount: tokens * MemoryLayout<Float>.size)
      let blocks =
        (tokens + Scheduler<ComputeJob>.blockTokens - 1) / Scheduler<ComputeJob>.blockTokens
      variances = MemoryBlock(byteCount: blocks * MemoryLayout<Double>.size)
      reconstruction =
        request.returnReconstruction ? MemoryBlock(byteCount: tokens * rowBytes) : nil
    case .decode(_, let tokens):
      encodeProgress = nil
      squaredErrors = MemoryBlock(byteCount: 0)
      variances = MemoryBlock(byteCount: 0)
      reconstruction = MemoryBlock(byteCount: tokens * rowBytes)
    }
  }

  /// What the scheduler must know of it, for a stage that waits from `since` on.
  func scheduled(since: ContinuousClock.Instant) -> Scheduler<ComputeJob>.Work {
    let rowBytes = version.dictionary.dModel * MemoryLayout<Float>.size
    let (tokens, bytesPerToken): (Int, Int) =
      switch work {
      case .encode(_, let tokens, _, _): (tokens, rowBytes)
      case .decode(let request, let tokens): (tokens, Self.bytesPerToken(request, tokens, rowBytes))
      }
    return Scheduler<ComputeJob>.Work(
      serial: ticket.serial, connection: connection, group: ObjectIdentifier(version),
      tokens: tokens, bytesPerToken: bytesPerToken, since: since, deadline: deadline)
  }

  /// A decoded token reads a decoder row for each of its active latents: a piece that reads as much
  /// as this many batches of activations takes about as long as encoding one.
  private static let decoderBatchesPerPiece = 16

  private static func bytesPerToken(
    _ request: DecodeRequest, _ tokens: Int, _ rowBytes: Int
  ) -> Int {
    let active = request.codes.indices.count / MemoryLayout<UInt32>.size
    return rowBytes * max(1, active / max(tokens, 1) / decoderBatchesPerPiece)
  }

  // MARK: Computing

  /// Begins a piece.
  ///
  /// - Parameter pressure: how many granularities less a request is given that allows it.
  /// - Returns: what to encode at; nil for decoding.
  /// - Throws: why the piece is not worth computing any more.
  func begin(_ piece: Piece, pressure: Int) throws(ServerError) -> Stage? {
    let stage = progress.withLock { progress in
      if progress.started == nil {
        progress.started = .now
        progress.codes = Array(repeating: nil, count: piece.count)
        if case .encode(_, _, let stages, let fallbacks) = work {
          let isShed = pressure > 0 && !fallbacks.isEmpty
          progress.computed =
            isShed ? fallbacks[min(pressure, fallbacks.count) - 1] : stages[progress.stage]
        }
      }
      return progress.computed
    }
    if ticket.isCancelled { throw ServerError(.cancelled, "the request was cancelled") }
    if let deadline, ContinuousClock.now >= deadline { throw Self.expired }
    return stage
  }

  /// The error of a request whose time has run out.
  static let expired = ServerError(
    .deadlineExceeded, "timeout_ms: ran out before the request was computed; allow more time")

  /// Measures what a piece's codes leave of its activations: [tokens, d_model].
  func measure(
    _ codes: SparseCodes, _ activations: UnsafeBufferPointer<Float>, _ piece: Piece, _ stage: Stage
  ) {
    let tokens = piece.tokens
    guard !tokens.isEmpty,
      let errors = squaredErrors.bytes.bindMemory(to: Float.self).baseAddress
    else { return }
    let dModel = version.dictionary.dModel
    version.encoder.nestedDecode(
      codes, activations: activations, granularities: [stage.granularity],
      squaredErrors: errors + tokens.lowerBound,
      reconstructions: reconstruction?.bytes.bindMemory(to: Float.self).baseAddress.map {
        $0 + tokens.lowerBound * dModel
      })
    // The same at every stage.
    guard progress.withLock({ $0.stage == 0 }) else { return }
    let blockTokens = Scheduler<ComputeJob>.blockTokens
    let blocks = variances.bytes.bindMemory(to: Double.self)
    for start in stride(from: tokens.lowerBound, to: tokens.upperBound, by: blockTokens) {
      let end = min(start + blockTokens, tokens.upperBound)
      let first = (start - tokens.lowerBound) * dModel
      blocks[start / blockTokens] =
        version.dictionary.totalVariance(
          of: UnsafeBufferPointer(
            rebasing: activations[first..<first + (end - start) * dModel])) ?? 0
    }
  }

  /// Turns some tokens' codes of a decode request back into activations.
  func decode(_ request: DecodeRequest, _ tokens: Range<Int>) throws(ServerError) {
    let codes: SparseCodes
    do throws(ServerError) {
      codes = try request.codes.sparseCodes(tokens: tokens, latents: version.latents)
    } catch {
      throw ServerError(error.code, "decode.\(error.message)")
    }
    guard let output = reconstruction?.bytes.bindMemory(to: Float.self).baseAddress else { return }
    do throws(DecodingError) {
      try version.encoder.decode(
        codes, into: output + tokens.lowerBound * version.dictionary.dModel)
    } catch {
      guard case .latent(let latent, let token, let latents) = error else {
        throw ServerError(.failedPrecondition, "decode: \(error)")
      }
      throw ServerError(
        .failedPrecondition,
        "decode.codes.indices: token \(tokens.lowerBound + token) names latent \(latent), of which \(latents) are resident; have the model resized"
      )
    }
  }

  /// Ends a piece; the last one of a stage gives the stage's answer.
  ///
  /// - Parameter pressure: above 0 a request that allows it ends with this stage.
  func finish(_ piece: Piece, _ result: Result<SparseCodes?, ServerError>, pressure: Int) -> Answer?
  {
    let done: Progress? = progress.withLock { progress in
      switch result {
      case .success(let codes): progress.codes[piece.index] = wantsCodes ? codes : nil
      case .failure(let error): progress.failures.append((piece.index, error))
      }
      progress.piecesDone += 1
      return progress.piecesDone == piece.count ? progress : nil
    }
    return done.map { respond($0, pressure: pressure) }
  }

  private var wantsCodes: Bool {
    if case .encode(let request, _, _, _) = work { !request.omitCodes } else { false }
  }

  // MARK: Responding

  private func respond(_ done: Progress, pressure: Int) -> Answer {
    // The same error whichever piece failed first.
    if let failure = done.failures.min(by: { $0.piece < $1.piece }) {
      return fail(failure.error)
    }
    switch work {
    case .encode(let request, let tokens, let stages, _):
      guard let stage = done.computed else { preconditionFailure("a stage that ends has begun") }
      let codes = request.omitCodes ? nil : PackedCodes(joining: done.codes.compactMap { $0 })
      let isShed = stage.granularity < stages[done.stage].granularity
      let fvu = fvu()
      let stopReason = stopReason(request, stages, done.stage, isShed, fvu, pressure)
      var change = codes.map { (added: $0, removed: PackedCodes?.none) }
      if request.delta, let codes, let previous = done.previous {
        let difference = codes.difference(from: previous)
        change = (difference.changed, difference.removed)
      }
      let started = done.started ?? done.since
      let now = ContinuousClock.now
      let response = EncodeResponse(
        model: request.model, version: version.version, granularity: UInt32(stage.granularity),
        k: UInt32(stage.k), codes: change?.added, removed: change?.removed,
        reconstruction: reconstruction.map { tensor($0, tokens: tokens) }, fvu: fvu,
        squaredErrors: SharedBytes(squaredErrors), stopReason: stopReason,
        queueNanoseconds: started.nanoseconds(since: done.since),
        computeNanoseconds: now.nanoseconds(since: started))
      progress.withLock {
        $0 = Progress(
          stage: done.stage + 1, since: now, previous: request.delta ? codes : nil)
      }
      let measure = StageMeasure(
        model: request.model, method: .encode, tokens: tokens,
        granularityAsked: stages[stages.count - 1].granularity, granularity: stage.granularity,
        queueSeconds: Double(response.queueNanoseconds) * 1e-9,
        computeSeconds: Double(response.computeNanoseconds) * 1e-9)
      return answer(
        .encode(response), isLast: stopReason != nil, isShed: stopReason == .overload, measure)
    case .decode(let request, let tokens):
      let response = DecodeResponse(
        model: request.model, version: version.version,
        reconstruction: tensor(
          reconstruction ?? MemoryBlock(byteCount: 0), tokens: tokens))
      let started = done.started ?? done.since
      let measure = StageMeasure(
        model: request.model, method: .decode, tokens: tokens, granularityAsked: 0, granularity: 0,
        queueSeconds: Double(started.nanoseconds(since: done.since)) * 1e-9,
        computeSeconds: Double(ContinuousClock.now.nanoseconds(since: started)) * 1e-9)
      return answer(.decode(response), isLast: true, isShed: false, measure)
    }
  }

  private func stopReason(
    _ request: EncodeRequest, _ stages: [Stage], _ stage: Int, _ isShed: Bool, _ fvu: Float?,
    _ pressure: Int
  ) -> StopReason? {
    if isShed { return .overload }
    if request.targetFVU > 0, let fvu, fvu <= request.targetFVU { return .targetFVU }
    if stage == stages.count - 1 { return .complete }
    return pressure > 0 && request.minGranularity > 0 ? .overload : nil
  }

  private func answer(_ body: Response.Body, isLast: Bool, isShed: Bool, _ measure: StageMeasure)
    -> Answer
  {
    let frame = Response(id: requestID, last: isLast, result: .success(body)).packed()
    guard frame.count - FrameDecoder.headerBytes <= frameBytesMax else {
      return fail(
        ServerError(
          .resourceExhausted,
          "the response takes \(frame.count) bytes, the limit is \(frameBytesMax): send fewer tokens"
        ))
    }
    return Answer(frame: frame, isLast: isLast, isShed: isShed, outcome: .success(measure))
  }

  private func fail(_ error: ServerError) -> Answer {
    Answer(
      frame: Response(id: requestID, result: .failure(error)).packed(), isLast: true,
      isShed: false, outcome: .failure(error))
  }

  /// Fraction of variance unexplained; nil where the dictionary has no mean, or the tokens no
  /// variance.
  private func fvu() -> Float? {
    guard version.dictionary.activationMean != nil else { return nil }
    let variance = variances.bytes.bindMemory(to: Double.self).reduce(0, +)
    guard variance > 0 else { return nil }
    let error = squaredErrors.bytes.bindMemory(to: Float.self).reduce(0.0) { $0 + Double($1) }
    return Float(error / variance)
  }

  private func tensor(_ block: MemoryBlock, tokens: Int) -> PackedTensor {
    PackedTensor(
      type: .float32, shape: [UInt32(tokens), UInt32(version.dictionary.dModel)],
      data: SharedBytes(block))
  }
}

extension ContinuousClock.Instant {
  /// Nanoseconds from `start` to this moment; 0 where it lies before.
  fileprivate func nanoseconds(since start: ContinuousClock.Instant) -> UInt64 {
    let (seconds, attoseconds) = start.duration(to: self).components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return UInt64(seconds) &* 1_000_000_000 &+ UInt64(attoseconds / 1_000_000_000)
  }
}
