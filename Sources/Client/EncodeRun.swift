import GranuleTensors
import GranuleWire

/// Rows of activations that a program sends to a server in batches.
public struct ActivationRows: Sendable {
  /// Number of rows.
  public var count: Int
  /// Length of a row.
  public var dModel: Int
  /// Copies a range of rows to [rows, d_model].
  public var copy: @Sendable (Range<Int>, UnsafeMutablePointer<Float>) -> Void
  /// Names the place of a row, for errors: the file and the token in it.
  public var describe: @Sendable (Int) -> String

  /// Rows that two functions give.
  public init(
    count: Int, dModel: Int,
    copy: @escaping @Sendable (Range<Int>, UnsafeMutablePointer<Float>) -> Void,
    describe: @escaping @Sendable (Int) -> String
  ) {
    self.count = count
    self.dModel = dModel
    self.copy = copy
    self.describe = describe
  }
}

/// Encodes many rows with a server, several requests in flight, and measures it.
public struct EncodeRun: Sendable {
  let client: Client
  let model: String
  let rows: ActivationRows
  let k: UInt32
  let batch: Int
  let inFlight: Int

  /// - Parameters:
  ///   - k: active latents per token; 0 for the dictionary's own number.
  ///   - batch: tokens per request.
  ///   - inFlight: requests that wait for an answer at the same time.
  public init(
    client: Client, model: String, rows: ActivationRows, k: UInt32 = 0, batch: Int = 256,
    inFlight: Int = 4
  ) {
    self.client = client
    self.model = model
    self.rows = rows
    self.k = k
    self.batch = batch
    self.inFlight = inFlight
  }

  /// The codes of one granularity, and how long they took.
  public struct Result: Sendable {
    /// The granularity that the server answered with.
    public var granularity: UInt32
    /// The k that it used; 0 for a rule without k.
    public var k: UInt32
    /// The version that answered the first request.
    public var version: UInt64
    /// Number of requests that each version answered.
    public var answeredBy: [UInt64: Int]
    /// Fraction of variance unexplained over all tokens; nil if the dictionary stores no mean.
    public var fvu: Double?
    /// The codes of all tokens.
    public var codes: CodesFile
    /// Wall-clock time.
    public var seconds: Double
    /// Time that requests waited for a worker, summed over the requests.
    public var queueSeconds: Double
    /// Time that workers computed, summed over the requests.
    public var computeSeconds: Double
    /// Time that requests spent sending, receiving and packing, summed over the requests.
    public var wireSeconds: Double
    /// Mean number of active latents per token.
    public var l0: Double {
      codes.codes.l0
    }
  }

  private struct Answer: Sendable {
    var response: EncodeResponse
    var seconds: Double
  }

  /// Encodes every row, `repetitions` times over, after a first batch that only warms up caches.
  ///
  /// - Parameters:
  ///   - granularity: 0 for the largest that is resident.
  ///   - onProgress: receives the share done.
  /// - Returns: the fastest repetition, whose `answeredBy` counts the requests of all.
  /// - Throws: `ServerError` or `ClientError` of the first request that failed.
  public func encode(
    _ granularity: UInt32, repetitions: Int = 1, onProgress: (Double) -> Void = { _ in }
  ) async throws -> Result {
    _ = try await encode(granularity, isWarmUp: true) { _ in }
    var best = try await encode(granularity, isWarmUp: false) {
      onProgress($0 / Double(repetitions))
    }
    var answeredBy = best.answeredBy
    for repetition in 1..<max(repetitions, 1) {
      let result = try await encode(granularity, isWarmUp: false) {
        onProgress((Double(repetition) + $0) / Double(repetitions))
      }
      answeredBy.merge(result.answeredBy) { $0 + $1 }
      if result.seconds < best.seconds { best = result }
    }
    best.answeredBy = answeredBy
    return best
  }

  private func encode(
    _ granularity: UInt32, isWarmUp: Bool, onProgress: (Double) -> Void
  ) async throws -> Result {
    let begin = ContinuousClock.now
    let answers = try await batches(isWarmUp: isWarmUp, onProgress: onProgress) { range in
      let request = request(range, granularities: granularity == 0 ? [] : [granularity])
      let begin = ContinuousClock.now
      let response = try await naming(range) { try await client.encode(request) }
      return Answer(response: response, seconds: (ContinuousClock.now - begin) / .seconds(1))
    }
    return try summary(answers, seconds: (ContinuousClock.now - begin) / .seconds(1))
  }

  /// Sends all batches, several at the same time, and returns the answers in the order of the rows.
  func batches<Value: Sendable>(
    isWarmUp: Bool, onProgress: (Double) -> Void,
    send: @escaping @Sendable (Range<Int>) async throws -> Value
  ) async throws -> [Value] {
    let tokens = isWarmUp ? min(batch, rows.count) : rows.count
    let starts = Array(stride(from: 0, to: max(tokens, 1), by: batch))
    var values: [Value?] = Array(repeating: nil, count: starts.count)
    try await withThrowingTaskGroup(of: (Int, Value).self) { group in
      var next = 0
      var done = 0
      func add() {
        let place = next
        let range = starts[place]..<min(starts[place] + batch, tokens)
        group.addTask { (place, try await send(range)) }
        next += 1
      }
      while next < min(inFlight, starts.count) { add() }
      while let (place, value) = try await group.next() {
        values[place] = value
        done += 1
        onProgress(Double(done) / Double(starts.count))
        if next < starts.count { add() }
      }
    }
    return values.compactMap { $0 }
  }

  /// A request for a range of the rows.
  func request(_ range: Range<Int>, granularities: [UInt32]) -> EncodeRequest {
    let block = MemoryBlock(
      byteCount: range.count * rows.dModel * MemoryLayout<Float>.stride)
    if let start = block.bytes.bindMemory(to: Float.self).baseAddress { rows.copy(range, start) }
    return EncodeRequest(
      model: model,
      activations: PackedTensor(
        type: .float32, shape: [UInt32(range.count), UInt32(rows.dModel)],
        data: SharedBytes(block)),
      granularities: granularities, k: k)
  }

  /// Adds to a server's error where the request's tokens lie in the files, since the server counts
  /// from the request's first.
  func naming<Value>(_ range: Range<Int>, _ body: () async throws -> Value) async throws -> Value {
    do {
      return try await body()
    } catch let error as ServerError {
      let first = rows.describe(range.lowerBound)
      throw ServerError(
        error.code, "\(error.message) (token 0 of this request is \(first))",
        retryAfterMilliseconds: error.retryAfterMilliseconds)
    }
  }

  private func summary(_ answers: [Answer], seconds: Double) throws -> Result {
    var codes = CodesFile()
    var (queue, compute, latency) = (0.0, 0.0, 0.0)
    var (error, variance) = (0.0, 0.0)
    var hasFVU = !answers.isEmpty
    for answer in answers {
      let response = answer.response
      queue += Double(response.queueNanoseconds) * 1e-9
      compute += Double(response.computeNanoseconds) * 1e-9
      latency += answer.seconds
      if let part = response.codes { try codes.append(part) }
      let own = response.squaredErrors.array(of: Float.self).reduce(0.0) { $0 + Double($1) }
      error += own
      // The FVU of each response is its error over its variance.
      if let fvu = response.fvu {
        variance += fvu > 0 ? own / Double(fvu) : 0
      } else {
        hasFVU = false
      }
    }
    guard let first = answers.first?.response else {
      throw ServerError(.internal, "no request was sent")
    }
    return Result(
      granularity: first.granularity, k: first.k, version: first.version,
      answeredBy: answers.reduce(into: [:]) { $0[$1.response.version, default: 0] += 1 },
      fvu: hasFVU && variance > 0 ? error / variance : nil, codes: codes, seconds: seconds,
      queueSeconds: queue, computeSeconds: compute,
      wireSeconds: max(latency - queue - compute, 0))
  }
}
