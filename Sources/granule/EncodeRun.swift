import GranuleClient
import GranuleTensors
import GranuleTraining
import GranuleWire

/// Encodes a data set with a server, several requests in flight, and measures it.
struct EncodeRun: Sendable {
  let client: Client
  let model: String
  let dataset: ActivationDataset
  /// Active latents a token; 0: the dictionary's own.
  let k: UInt32
  /// Tokens a request.
  let batch: Int
  /// Requests in flight at once.
  let inFlight: Int

  /// One granularity's codes, and how long they took.
  struct Result {
    var granularity: UInt32
    var k: UInt32
    /// The version that answered the first request.
    var version: UInt64
    /// Requests that each version answered.
    var answeredBy: [UInt64: Int]
    /// Fraction of variance unexplained over all tokens; nil where the dictionary stores no mean.
    var fvu: Double?
    var codes: CodesFile
    /// Wall-clock time.
    var seconds: Double
    /// Sums over the requests: until a worker took them, in the workers, and the rest.
    var queueSeconds: Double
    var computeSeconds: Double
    var wireSeconds: Double
    /// Mean number of active latents a token.
    var l0: Double { codes.codes.l0 }
  }

  private struct Answer: Sendable {
    var response: EncodeResponse
    var seconds: Double
  }

  /// - Parameters:
  ///   - granularity: 0 for the largest resident.
  ///   - isWarmUp: send the first batch only.
  ///   - onProgress: is told the share done.
  /// - Throws: `ServerError` or `ClientError` of the first request that failed.
  func encode(_ granularity: UInt32, isWarmUp: Bool, onProgress: (Double) -> Void) async throws
    -> Result
  {
    let begin = ContinuousClock.now
    let answers = try await batches(isWarmUp: isWarmUp, onProgress: onProgress) { range in
      let request = request(range, granularities: granularity == 0 ? [] : [granularity])
      let begin = ContinuousClock.now
      let response = try await naming(range) { try await client.encode(request) }
      return Answer(response: response, seconds: (ContinuousClock.now - begin) / .seconds(1))
    }
    return try summary(answers, seconds: (ContinuousClock.now - begin) / .seconds(1))
  }

  /// Sends one batch after the other, several at once; gives the answers in the order of the tokens.
  func batches<Value: Sendable>(
    isWarmUp: Bool, onProgress: (Double) -> Void,
    send: @escaping @Sendable (Range<Int>) async throws -> Value
  ) async throws -> [Value] {
    let tokens = isWarmUp ? min(batch, dataset.tokens) : dataset.tokens
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

  /// A request for some of the tokens.
  func request(_ range: Range<Int>, granularities: [UInt32]) -> EncodeRequest {
    let rows = FloatStorage(count: range.count * dataset.dModel)
    dataset.copyTokens(range, into: rows.pointer)
    return EncodeRequest(
      model: model,
      activations: PackedTensor(
        type: .float32, shape: [UInt32(range.count), UInt32(dataset.dModel)],
        data: SharedBytes(UnsafeRawBufferPointer(rows.values), owner: rows)),
      granularities: granularities, k: k)
  }

  /// Says in a server's error where the request's tokens lie in the files: the server counts the
  /// request's own.
  func naming<Value>(_ range: Range<Int>, _ body: () async throws -> Value) async throws -> Value {
    do {
      return try await body()
    } catch let error as ServerError {
      let first = dataset.describe(token: range.lowerBound)
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
      // Each response's FVU is its error over its variance.
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
