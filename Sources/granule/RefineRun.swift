import GranuleClient
import GranuleWire

/// Encodes a data set in stages, each request until it has reached a target.
struct RefineRun: Sendable {
  let run: EncodeRun
  /// Ascending.
  let granularities: [UInt32]
  /// 0: every stage is computed.
  let targetFVU: Float

  /// What the requests that reached a granularity came to there.
  struct Stage {
    var granularity: UInt32
    var k: UInt32
    var tokens = 0
    var active = 0
    var error = 0.0
    var variance = 0.0
    /// From the first of their stages to this one.
    var computeSeconds = 0.0
    /// Tokens of requests for which this was the last.
    var tokensEnding = 0
    /// Fraction of variance unexplained; nil where the dictionary stores no mean.
    var fvu: Double? { variance > 0 ? error / variance : nil }
    /// Mean number of active latents a token.
    var l0: Double { Double(active) / Double(max(tokens, 1)) }
  }

  /// All requests.
  struct Result {
    var stages: [Stage]
    /// Each request's at the last granularity it reached.
    var codes: CodesFile
    /// The versions that answered.
    var versions: Set<UInt64>
    /// Wall-clock time.
    var seconds: Double
    /// Mean granularity at which a token's request ended.
    var meanGranularity: Double {
      let tokens = stages.reduce(0) { $0 + $1.tokensEnding }
      let sum = stages.reduce(0.0) { $0 + Double($1.granularity) * Double($1.tokensEnding) }
      return sum / Double(max(tokens, 1))
    }
  }

  /// - Parameter onProgress: is told the share done.
  /// - Throws: `ServerError` or `ClientError` of the first request that failed.
  func refine(onProgress: (Double) -> Void) async throws -> Result {
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
        // Each response's FVU is its error over its variance.
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
