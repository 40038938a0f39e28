import GranuleWire

/// Encodes many rows in stages, each request until it has reached a target.
public struct RefineRun: Sendable {
  let run: EncodeRun
  let granularities: [UInt32]
  let targetFVU: Float

  /// - Parameters:
  ///   - granularities: the stages, ascending.
  ///   - targetFVU: the FVU at which a request ends; 0 computes every stage.
  public init(run: EncodeRun, granularities: [UInt32], targetFVU: Float = 0) {
    self.run = run
    self.granularities = granularities
    self.targetFVU = targetFVU
  }

  /// The requests that reached a granularity, summed up at that granularity.
  public struct Stage: Sendable {
    /// The granularity.
    public var granularity: UInt32
    /// The k that the server used; 0 for a rule without k.
    public var k: UInt32
    /// Number of tokens in these requests.
    public var tokens = 0
    var active = 0
    var error = 0.0
    var variance = 0.0
    /// Time that workers computed, from the first stage up to this one.
    public var computeSeconds = 0.0
    /// Number of tokens in the requests that ended here.
    public var tokensEnding = 0
    /// Fraction of variance unexplained; nil if the dictionary stores no mean.
    public var fvu: Double? { variance > 0 ? error / variance : nil }
    /// Mean number of active latents per token.
    public var l0: Double { Double(active) / Double(max(tokens, 1)) }
  }

  /// The result of all requests.
  public struct Result: Sendable {
    /// One stage per granularity that a request reached.
    public var stages: [Stage]
    /// The codes of each request at the last granularity that it reached.
    public var codes: CodesFile
    /// The versions that answered.
    public var versions: Set<UInt64>
    /// Wall-clock time.
    public var seconds: Double
    /// Mean granularity at which a token's request ended.
    public var meanGranularity: Double {
      let tokens = stages.reduce(0) { $0 + $1.tokensEnding }
      let sum = stages.reduce(0.0) { $0 + Double($1.granularity) * Double($1.tokensEnding) }
      return sum / Double(max(tokens, 1))
    }
  }

  /// Encodes every row.
  ///
  /// - Parameter onProgress: receives the share done.
  /// - Throws: `ServerError` or `ClientError` of the first request that failed.
  public func refine(onProgress: (Double) -> Void) async throws -> Result {
    let begin = ContinuousClock.now
    let answers = try await run.batches(isWarmUp: false, onProgress: onProgress) { range in
      var request = run.request(range, granularities: granularities)
      request.targetFVU = targetFVU
      request.delta = true
      return try await run.naming(range) {
        var stages: [EncodeResponse] = []
        for try await var stage in run.client.encodeStages(request) {
          if let before = stages.last?.codes { try stage.completeCodes(with: before) }
          stages.append(stage)
        }
        return stages
      }
    }
    return try summary(answers, seconds: (ContinuousClock.now - begin) / .seconds(1))
  }

  private func summary(_ answers: [[EncodeResponse]], seconds: Double) throws -> Result {
    var stages: [Stage] = []
    var codes = CodesFile()
    var versions: Set<UInt64> = []
    for answer in answers {
      var compute = 0.0
      for (place, response) in answer.enumerated() {
        if place == stages.count {
          stages.append(Stage(granularity: response.granularity, k: response.k))
        }
        let errors = response.squaredErrors.array(of: Float.self)
        let error = errors.reduce(0.0) { $0 + Double($1) }
        compute += Double(response.computeNanoseconds) * 1e-9
        stages[place].tokens += errors.count
        stages[place].active += (response.codes?.indices.count ?? 0) / 4
        stages[place].error += error
        // The FVU of each response is its error over its variance.
        if let fvu = response.fvu, fvu > 0 { stages[place].variance += error / Double(fvu) }
        stages[place].computeSeconds += compute
        if place == answer.count - 1 {
          stages[place].tokensEnding += errors.count
          if let last = response.codes { try codes.append(last) }
        }
        versions.insert(response.version)
      }
    }
    return Result(stages: stages, codes: codes, versions: versions, seconds: seconds)
  }
}
