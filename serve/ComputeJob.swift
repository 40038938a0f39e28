import ModelRepository
import SparseAutoencoder
import Synchronization
import Tensors
import Wire

/// A request that was admitted, and the one version of a model that answers all of it.
///
/// The event loop holds only a job's ticket: the last reference to a version, whose memory takes
/// long to free, then never ends there.
final class ComputeJob: Sendable {
  /// What to compute.
  enum Work: Sendable {
    /// Encode tokens at one granularity; `k` is 0 where the selection rule has none.
    case encode(EncodeRequest, tokens: Int, granularity: Int, k: Int)
    /// Turn codes back into activations.
    case decode(DecodeRequest, tokens: Int)
  }

  /// What the event loop keeps of a job in flight.
  final class Ticket: Sendable {
    let serial: UInt64
    private let cancelled = Atomic<Bool>(false)
    init(serial: UInt64) { self.serial = serial }
    /// Nobody waits for the answer any more.
    func cancel() { cancelled.store(true, ordering: .relaxed) }
    var isCancelled: Bool { cancelled.load(ordering: .relaxed) }
  }

  /// What the workers have done so far.
  private struct Progress {
    var started: ContinuousClock.Instant?
    var codes: [SparseCodes?] = []
    var failures: [(piece: Int, error: ServerError)] = []
    var piecesDone = 0
  }

  let ticket: Ticket
  let connection: UInt64
  let requestID: UInt64
  let arrival: ContinuousClock.Instant
  let deadline: ContinuousClock.Instant?
  let version: ResidentVersion
  let work: Work
  private let frameBytesMax: Int
  private let progress = Mutex(Progress())
  /// ‖x − x̂‖² of each token; pieces write ranges of their own.
  private let squaredErrors: MemoryBlock
  /// Σ‖x − mean‖² of each block of tokens; pieces start at whole blocks and write blocks of their
  /// own.
  private let variances: MemoryBlock
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
    let rowBytes = version.dictionary.dModel * MemoryLayout<Float>.size
    switch work {
    case .encode(let request, let tokens, _, _):
      squaredErrors = MemoryBlock(byteCount: tokens * MemoryLayout<Float>.size)
      let blocks =
        (tokens + Scheduler<ComputeJob>.blockTokens - 1) / Scheduler<ComputeJob>.blockTokens
      variances = MemoryBlock(byteCount: blocks * MemoryLayout<Double>.size)
      reconstruction =
        request.returnReconstruction ? MemoryBlock(byteCount: tokens * rowBytes) : nil
    case .decode(_, let tokens):
      squaredErrors = MemoryBlock(byteCount: 0)
      variances = MemoryBlock(byteCount: 0)
      reconstruction = MemoryBlock(byteCount: tokens * rowBytes)
    }
  }

  /// Tokens to compute.
  var tokens: Int {
    switch work {
    case .encode(_, let tokens, _, _): tokens
    case .decode(_, let tokens): tokens
    }
  }

  /// Whether several workers may share it.
  var isDivisible: Bool { if case .encode = work { true } else { false } }

  /// Computes a piece with the calling thread's workspace; the last piece done gives the response,
  /// ready to be sent.
  func run(_ piece: Scheduler<ComputeJob>.Piece, workspace: Workspace) -> PackedFrame? {
    progress.withLock { progress in
      if progress.started == nil {
        progress.started = .now
        progress.codes = Array(repeating: nil, count: piece.count)
      }
    }
    let result: Result<SparseCodes?, ServerError>
    do throws(ServerError) {
      if ticket.isCancelled { throw ServerError(.cancelled, "the request was cancelled") }
      if let deadline, ContinuousClock.now >= deadline {
        throw ServerError(
          .deadlineExceeded, "timeout_ms: ran out before the request was computed; allow more time")
      }
      switch work {
      case .encode(let request, _, let granularity, let k):
        result = .success(try encode(request, piece.tokens, granularity, k, workspace))
      case .decode(let request, _):
        try decode(request)
        result = .success(nil)
      }
    } catch {
      result = .failure(error)
    }
    let done: Progress? = progress.withLock { progress in
      switch result {
      case .success(let codes): progress.codes[piece.index] = codes
      case .failure(let error): progress.failures.append((piece.index, error))
      }
      progress.piecesDone += 1
      return progress.piecesDone == piece.count ? progress : nil
    }
    return done.map { respond($0) }
  }

  // MARK: Computing

  private func encode(
    _ request: EncodeRequest, _ tokens: Range<Int>, _ granularity: Int, _ k: Int,
    _ workspace: Workspace
  ) throws(ServerError) -> SparseCodes? {
    let dModel = version.dictionary.dModel
    let rowBytes = dModel * request.activations.type.byteCount
    return try request.activations.data.withBytes { bytes throws(ServerError) in
      let rows = UnsafeRawBufferPointer(
        rebasing: bytes[tokens.lowerBound * rowBytes..<tokens.upperBound * rowBytes])
      let activations = workspace.float32(rows, type: request.activations.type)
      let codes: SparseCodes
      do throws(EncodingError) {
        codes = try version.dictionary.encode(
          activations, tokens: tokens.count, granularity: granularity, k: k == 0 ? nil : k,
          workspace: workspace.encoding)
      } catch {
        throw ServerError(
          .invalidArgument, "encode: \(error.shifted(by: tokens.lowerBound))")
      }
      measure(codes, activations, tokens, granularity)
      return request.omitCodes ? nil : codes
    }
  }

  private func measure(
    _ codes: SparseCodes, _ activations: UnsafeBufferPointer<Float>, _ tokens: Range<Int>,
    _ granularity: Int
  ) {
    guard !tokens.isEmpty,
      let errors = squaredErrors.bytes.bindMemory(to: Float.self).baseAddress
    else { return }
    let dModel = version.dictionary.dModel
    version.dictionary.nestedDecode(
      codes, activations: activations, granularities: [granularity],
      squaredErrors: errors + tokens.lowerBound,
      reconstructions: reconstruction?.bytes.bindMemory(to: Float.self).baseAddress.map {
        $0 + tokens.lowerBound * dModel
      })
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

  private func decode(_ request: DecodeRequest) throws(ServerError) {
    try request.codes.checkRows(latents: version.dictionary.latents)
    guard let output = reconstruction?.bytes.bindMemory(to: Float.self).baseAddress else { return }
    do {
      let codes = try SparseCodes(
        rowOffsets: request.codes.rowOffsets.array(of: UInt32.self),
        indices: request.codes.indices.array(of: UInt32.self),
        values: request.codes.values.array(of: Float.self))
      try version.dictionary.decode(codes, into: output)
    } catch let error as DecodingError {
      throw ServerError(.failedPrecondition, "decode: \(error)")
    } catch {
      throw ServerError(.invalidArgument, "decode: \(error)")
    }
  }

  // MARK: Responding

  private func respond(_ progress: Progress) -> PackedFrame {
    // The same error whichever piece failed first.
    if let failure = progress.failures.min(by: { $0.piece < $1.piece }) {
      return Response(id: requestID, result: .failure(failure.error)).packed()
    }
    let body: Response.Body
    switch work {
    case .encode(let request, let tokens, let granularity, let k):
      body = .encode(encodeResponse(request, tokens, granularity, k, progress))
    case .decode(let request, let tokens):
      body = .decode(
        DecodeResponse(
          model: request.model, version: version.version,
          reconstruction: tensor(reconstruction ?? MemoryBlock(byteCount: 0), tokens: tokens)))
    }
    let frame = Response(id: requestID, result: .success(body)).packed()
    guard frame.count - FrameDecoder.headerBytes <= frameBytesMax else {
      let error = ServerError(
        .resourceExhausted,
        "the response takes \(frame.count) bytes, the limit is \(frameBytesMax): send fewer tokens")
      return Response(id: requestID, result: .failure(error)).packed()
    }
    return frame
  }

  private func encodeResponse(
    _ request: EncodeRequest, _ tokens: Int, _ granularity: Int, _ k: Int, _ progress: Progress
  ) -> EncodeResponse {
    let started = progress.started ?? arrival
    return EncodeResponse(
      model: request.model, version: version.version, granularity: UInt32(granularity),
      k: UInt32(k), codes: request.omitCodes ? nil : joined(progress.codes, tokens: tokens),
      reconstruction: reconstruction.map { tensor($0, tokens: tokens) }, fvu: fvu(),
      squaredErrors: SharedBytes(squaredErrors), stopReason: .complete,
      queueNanoseconds: started.nanoseconds(since: arrival),
      computeNanoseconds: ContinuousClock.now.nanoseconds(since: started))
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

  /// The pieces' codes as one, in the order of the tokens.
  private func joined(_ pieces: [SparseCodes?], tokens: Int) -> PackedCodes {
    let pieces = pieces.compactMap { $0 }
    let active = pieces.reduce(0) { $0 + $1.indices.count }
    let rowOffsets = MemoryBlock(byteCount: (tokens + 1) * 4)
    let indices = MemoryBlock(byteCount: active * 4)
    let values = MemoryBlock(byteCount: active * 4)
    let offsets = rowOffsets.bytes.bindMemory(to: UInt32.self)
    offsets[0] = 0
    var (row, base) = (0, 0)
    for piece in pieces {
      for offset in piece.rowOffsets.dropFirst() {
        row += 1
        offsets[row] = UInt32(base) + offset
      }
      piece.indices.withUnsafeBytes {
        UnsafeMutableRawBufferPointer(rebasing: indices.bytes[(base * 4)...]).copyMemory(from: $0)
      }
      piece.values.withUnsafeBytes {
        UnsafeMutableRawBufferPointer(rebasing: values.bytes[(base * 4)...]).copyMemory(from: $0)
      }
      base += piece.indices.count
    }
    return PackedCodes(
      rowOffsets: SharedBytes(rowOffsets), indices: SharedBytes(indices),
      values: SharedBytes(values))
  }
}

/// A compute thread's own memory.
final class Workspace {
  let encoding = EncodeWorkspace()
  private var converted = FloatStorage(count: 0)

  /// Rows as float32, valid until the next call: the rows themselves where they are that already.
  func float32(_ rows: UnsafeRawBufferPointer, type: DataType) -> UnsafeBufferPointer<Float> {
    let elementType: ElementType
    switch type {
    case .float32:
      if Int(bitPattern: rows.baseAddress) % MemoryLayout<Float>.alignment == 0 {
        return rows.bindMemory(to: Float.self)
      }
      elementType = .float32
    case .float16: elementType = .float16
    case .bfloat16: elementType = .bfloat16
    }
    let count = rows.count / type.byteCount
    if converted.count < count { converted = FloatStorage(count: count) }
    let isConverted = convertToFloat32(rows, type: elementType, into: converted.pointer)
    precondition(isConverted, "every type on the wire is a floating-point type")
    return UnsafeBufferPointer(start: converted.pointer, count: count)
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
