import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import GranuleWire

/// Checks a request against the model that it names, before any work is done for it.
struct Admission {
  let limits: ServerLimits
  /// The system is asked for memory before a request that may take so many bytes is let in; what is
  /// smaller comes of memory that the allocator holds already.
  private static let probedBytesMin = 1 << 20

  /// What a request comes to if it is let in.
  struct Plan {
    let version: ResidentVersion
    let work: ComputeJob.Work
    /// Bytes of the request and of its largest possible response.
    let bytes: Int
  }

  // MARK: Encode

  /// - Parameter requestBytes: memory that the request takes.
  /// - Throws: what is wrong with the request for this server and this model.
  func plan(
    _ request: EncodeRequest, requestBytes: Int, _ models: ResidentModels
  ) throws(ServerError) -> Plan {
    let version = try models.pin(request.model, version: request.version, field: "encode")
    let dictionary = version.dictionary
    let (tokens, columns) = try request.activations.rowsAndColumns(named: "encode.activations")
    guard columns == dictionary.dModel else {
      throw ServerError(
        .invalidArgument,
        "encode.activations.shape: d_model is \(columns); model \(request.model) has \(dictionary.dModel)"
      )
    }
    let stages = try stages(request, version)
    let fallbacks = fallbacks(request, stages, dictionary)
    let response = responseBytesMax(tokens: tokens, stages + fallbacks, request, dictionary)
    try checkResponse(
      response, hint: "send fewer tokens, set omit_codes, or ask for a granularity of a smaller k")
    // Tokens are fewer than the bytes of the request: no product overflows.
    let progress =
      stages.count > 1
      ? tokens * EncodeProgress.bytesMax(k: stages.reduce(0) { max($0, $1.k) }) : 0
    // A client that reads slowly may have every stage waiting.
    let bytes = requestBytes + progress + stages.count * response
    guard bytes <= limits.admittedBytesMax else {
      throw ServerError(
        .resourceExhausted,
        "the request and its responses could take \(bytes) bytes, the limit is \(limits.admittedBytesMax): ask for fewer granularities, or send fewer tokens"
      )
    }
    return Plan(
      version: version,
      work: .encode(request, tokens: tokens, stages: stages, fallbacks: fallbacks), bytes: bytes)
  }

  /// The granularities that were asked for, each with its k.
  private func stages(
    _ request: EncodeRequest, _ version: ResidentVersion
  ) throws(ServerError) -> [ComputeJob.Stage] {
    let dictionary = version.dictionary
    let wanted =
      request.granularities.isEmpty
      ? [dictionary.latents] : request.granularities.map { Int($0) }
    guard wanted.count <= limits.stagesMax else {
      throw ServerError(
        .resourceExhausted,
        "encode.granularities: has \(wanted.count), the limit is \(limits.stagesMax); ask for fewer"
      )
    }
    try check(wanted[wanted.count - 1], version)
    let minGranularity = Int(request.minGranularity)
    guard minGranularity <= wanted[0] else {
      throw ServerError(
        .invalidArgument,
        "encode.min_granularity: is \(minGranularity), above the granularity asked for, \(wanted[0])"
      )
    }
    guard request.targetFVU == 0 || dictionary.activationMean != nil else {
      throw ServerError(
        .failedPrecondition,
        "encode.target_fvu: model \(request.model) stores no activation mean, so that no FVU can be measured; leave it out"
      )
    }
    try checkK(Int(request.k), wanted[0], dictionary)
    return wanted.map { Self.stage($0, request, dictionary) }
  }

  private static func stage(
    _ granularity: Int, _ request: EncodeRequest, _ dictionary: SparseAutoencoder
  ) -> ComputeJob.Stage {
    ComputeJob.Stage(
      granularity: granularity,
      k: request.k == 0 ? dictionary.defaultK(at: granularity) : Int(request.k))
  }

  /// What a request for one granularity may be given under load, the largest first: those that the
  /// dictionary was made for, and the least that the caller allows. Stages need none, they stop
  /// early.
  private func fallbacks(
    _ request: EncodeRequest, _ stages: [ComputeJob.Stage], _ dictionary: SparseAutoencoder
  ) -> [ComputeJob.Stage] {
    let least = Int(max(request.minGranularity, request.k))
    guard request.minGranularity > 0, stages.count == 1 else { return [] }
    let listed = dictionary.granularities.map(\.latents).filter { $0 > least } + [least]
    return listed.filter { $0 < stages[0].granularity }.sorted(by: >).map {
      Self.stage($0, request, dictionary)
    }
  }

  private func check(_ granularity: Int, _ version: ResidentVersion) throws(ServerError) {
    let resident = version.dictionary.latents
    guard granularity > resident else { return }
    guard granularity <= version.latents else {
      throw ServerError(
        .invalidArgument,
        "encode.granularities: \(granularity) is above the model's \(version.latents) latents; the largest available is \(resident)"
      )
    }
    throw ServerError(
      .failedPrecondition,
      "encode.granularities: \(granularity) is above the \(resident) latents that are resident; ask for at most \(resident), or have the model resized"
    )
  }

  /// - Parameter granularity: the smallest that was asked for.
  private func checkK(_ k: Int, _ granularity: Int, _ dictionary: SparseAutoencoder)
    throws(ServerError)
  {
    guard case .topk = dictionary.selectionRule else {
      guard k == 0 else {
        throw ServerError(
          .invalidArgument,
          "encode.k: is \(k), but the model's selection rule, \(dictionary.selectionRule.name), has none; leave it out"
        )
      }
      return
    }
    guard k <= granularity else {
      throw ServerError(
        .invalidArgument, "encode.k: is \(k), above the granularity, \(granularity)")
    }
  }

  /// Of any one of `stages`: a smaller granularity may well have a larger k. No product can
  /// overflow: tokens are fewer than the bytes of a frame, and the other factors fit 32 bits.
  private func responseBytesMax(
    tokens: Int, _ stages: [ComputeJob.Stage], _ request: EncodeRequest,
    _ dictionary: SparseAutoencoder
  ) -> Int {
    let active = stages.reduce(0) { max($0, $1.k == 0 ? $1.granularity : $1.k) }
    // Where stages carry changes, those that left come on top, with an offset of their own each.
    let removed = request.delta ? 4 * (tokens + 1) + 4 * tokens * active : 0
    let codes = request.omitCodes ? 0 : 4 * (tokens + 1) + 8 * tokens * active + removed
    let reconstruction = request.returnReconstruction ? 4 * tokens * dictionary.dModel : 0
    return Response.overheadBytesMax + 4 * tokens + codes + reconstruction
  }

  // MARK: Decode

  /// - Parameter requestBytes: memory that the request takes.
  /// - Throws: what is wrong with the request for this server and this model.
  func plan(
    _ request: DecodeRequest, requestBytes: Int, _ models: ResidentModels
  ) throws(ServerError) -> Plan {
    let version = try models.pin(request.model, version: request.version, field: "decode")
    let tokens: Int
    do throws(ServerError) { tokens = try request.codes.tokens() } catch {
      throw ServerError(error.code, "decode.\(error.message)")
    }
    let response = Response.overheadBytesMax + 4 * tokens * version.dictionary.dModel
    try checkResponse(response, hint: "send fewer tokens")
    let bytes =
      request.codes.rowOffsets.count + request.codes.indices.count + request.codes.values.count
    // The codes are copied once more while they are decoded.
    return Plan(
      version: version, work: .decode(request, tokens: tokens),
      bytes: requestBytes + bytes + response)
  }

  private func checkResponse(_ bytes: Int, hint: String) throws(ServerError) {
    guard bytes <= limits.frameBytesMax else {
      throw ServerError(
        .resourceExhausted,
        "the response could take \(bytes) bytes, the limit is \(limits.frameBytesMax): \(hint)")
    }
  }

  // MARK: Room

  /// What is there, of all connections and of the one that asks.
  struct Occupancy {
    var queue: ComputeWorkers.Queue
    /// Bytes of requests in flight, of their responses, and of what waits to be written.
    var bytes: Int
    var ownBytes: Int
  }

  /// A connection may hold as much as it leaves free: one that floods takes half, and what several
  /// take leaves the share of one more, so that none keeps the others out.
  ///
  /// - Parameters:
  ///   - tokens, bytes: what the request adds.
  /// - Throws: UNAVAILABLE where others leave no room now; RESOURCE_EXHAUSTED where the system has no
  ///   memory for it, which may meet a request alone.
  func checkRoom(tokens: Int, bytes: Int, _ there: Occupancy) throws(ServerError) {
    let queue = there.queue
    let wait = Int((queue.expectedWait / .milliseconds(1)).rounded(.up))
    let retryAfter = max(limits.retryAfterMilliseconds, UInt32(clamping: wait))
    guard queue.tokens == 0 || queue.expectedWait <= limits.queueWaitMax else {
      throw ServerError(
        .unavailable,
        "the queue takes \(wait) ms, the limit is \(limits.queueWaitMax); try again later",
        retryAfterMilliseconds: retryAfter)
    }
    guard
      queue.tokens == 0 || queue.ownTokens + tokens <= limits.queueTokensMax - queue.tokens
    else {
      throw ServerError(
        .unavailable,
        "the queue holds \(queue.tokens) tokens, \(queue.ownTokens) of this connection; the limit is \(limits.queueTokensMax), of which a connection may hold what is left free; try again later",
        retryAfterMilliseconds: retryAfter)
    }
    // What has been admitted may not have been allocated yet.
    guard bytes < Self.probedBytesMin || Memory.canBeHad(there.bytes + bytes) else {
      throw ServerError(
        .resourceExhausted,
        "there is no memory for the request, which may take \(bytes) bytes; send fewer tokens, or try again later",
        retryAfterMilliseconds: retryAfter)
    }
    guard there.bytes == 0 || there.ownBytes + bytes <= limits.admittedBytesMax - there.bytes
    else {
      throw ServerError(
        .unavailable,
        "requests in flight take \(there.bytes) bytes, \(there.ownBytes) of this connection; the limit is \(limits.admittedBytesMax), of which a connection may hold what is left free; try again later",
        retryAfterMilliseconds: retryAfter)
    }
  }
}
