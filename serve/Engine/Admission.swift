import GranuleCalls
import GranuleDictionary
import GranuleEncoder
import GranuleTensors

/// Checks a call against the model that it names and against the room there is, before any work is
/// done for it.
struct Admission {
  let limits: EngineLimits
  /// A call that may take at least this many bytes is let in only after the system was asked whether
  /// it has the memory; smaller ones use memory that the allocator holds already.
  private static let probedBytesMin = 1 << 20

  /// What a call comes to if it is let in.
  struct Plan {
    let version: ResidentVersion
    let tokens: Int
    /// Bytes of the request and of its largest possible replies.
    let bytes: Int
    /// Makes what workers compute.
    let job: (AdmittedCall) -> any Job
  }

  // MARK: Encode

  /// - Parameters:
  ///   - requestBytes: memory that the request takes.
  ///   - sink: where the replies go, which knows how long they can become.
  /// - Throws: what is wrong with the request for this server and this model.
  func plan(
    _ request: EncodeRequest, on version: ResidentVersion, requestBytes: Int,
    _ sink: any ReplySink
  ) throws(ServerError) -> Plan {
    let dictionary = version.dictionary
    let (tokens, columns) = try request.activations.rowsAndColumns(named: "encode.activations")
    guard columns == dictionary.dModel else {
      throw ServerError(
        .invalidArgument,
        "encode.activations.shape: d_model is \(columns); model \(request.model) has \(dictionary.dModel)"
      )
    }
    let steps = try steps(request, version)
    let plan = EncodeJob.Plan(
      tokens: tokens, steps: steps, fallbacks: fallbacks(request, steps, dictionary))
    let reply = sink.bytesMax(of: replySize(request, plan, dictionary))
    try checkReply(
      reply, sink,
      hint: "send fewer tokens, set omit_codes, or ask for a granularity of a smaller k")
    // Tokens are fewer than the bytes of the request: no product overflows.
    let progress = steps.count > 1 ? tokens * EncodeProgress.bytesMax(k: plan.kMax) : 0
    // A client that reads slowly may have every stage waiting.
    let bytes = requestBytes + progress + steps.count * reply
    guard bytes <= limits.admittedBytesMax else {
      throw ServerError(
        .resourceExhausted,
        "the request and its responses could take \(bytes) bytes, the limit is \(limits.admittedBytesMax): ask for fewer granularities, or send fewer tokens"
      )
    }
    return Plan(version: version, tokens: tokens, bytes: bytes) { call in
      EncodeJob(call, request, plan)
    }
  }

  /// The granularities that were asked for, each with its k.
  private func steps(
    _ request: EncodeRequest, _ version: ResidentVersion
  ) throws(ServerError) -> [EncodeJob.Step] {
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
        "encode.target_fvu: model \(request.model) stores no activation mean, so no FVU can be measured; leave target_fvu out"
      )
    }
    try checkK(Int(request.k), wanted[0], dictionary)
    return wanted.map { Self.step($0, request, dictionary) }
  }

  private static func step(
    _ granularity: Int, _ request: EncodeRequest, _ dictionary: SparseAutoencoder
  ) -> EncodeJob.Step {
    EncodeJob.Step(
      granularity: granularity,
      k: request.k == 0 ? dictionary.defaultK(at: granularity) : Int(request.k))
  }

  /// What a request for one granularity may be answered at under load, the largest first: the
  /// granularities that the dictionary was made for, and the least that the caller allows. A request
  /// for several granularities needs no fallback, because it can stop early.
  private func fallbacks(
    _ request: EncodeRequest, _ steps: [EncodeJob.Step], _ dictionary: SparseAutoencoder
  ) -> [EncodeJob.Step] {
    let least = Int(max(request.minGranularity, request.k))
    guard request.minGranularity > 0, steps.count == 1 else { return [] }
    let listed = dictionary.granularities.map(\.latents).filter { $0 > least } + [least]
    return listed.filter { $0 < steps[0].granularity }.sorted(by: >).map {
      Self.step($0, request, dictionary)
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

  /// The size of the largest reply: a smaller granularity may well have a larger k.
  private func replySize(
    _ request: EncodeRequest, _ plan: EncodeJob.Plan, _ dictionary: SparseAutoencoder
  ) -> ReplySize {
    let active = (plan.steps + plan.fallbacks).reduce(0) {
      max($0, $1.k == 0 ? $1.granularity : $1.k)
    }
    return ReplySize(
      tokens: plan.tokens, activeLatents: request.omitCodes ? nil : active, hasErrors: true,
      reconstructionWidth: request.returnReconstruction ? dictionary.dModel : nil)
  }

  // MARK: Decode

  /// - Parameters: as for encoding.
  /// - Throws: what is wrong with the request for this server and this model.
  func plan(
    _ request: DecodeRequest, on version: ResidentVersion, requestBytes: Int,
    _ sink: any ReplySink
  ) throws(ServerError) -> Plan {
    let tokens: Int
    do throws(ServerError) { tokens = try request.codes.tokens() } catch {
      throw ServerError(error.code, "decode.\(error.message)")
    }
    let reply = sink.bytesMax(
      of: ReplySize(
        tokens: tokens, activeLatents: nil, hasErrors: false,
        reconstructionWidth: version.dictionary.dModel))
    try checkReply(reply, sink, hint: "send fewer tokens")
    // The codes are copied once more while they are decoded.
    let bytes = requestBytes + request.codes.byteCount + reply
    return Plan(version: version, tokens: tokens, bytes: bytes) { call in
      DecodeJob(call, request, tokens: tokens)
    }
  }

  private func checkReply(_ bytes: Int, _ sink: any ReplySink, hint: String) throws(ServerError) {
    guard bytes <= sink.replyBytesMax else {
      throw ServerError(
        .resourceExhausted,
        "the response could take \(bytes) bytes, the limit is \(sink.replyBytesMax): \(hint)")
    }
  }

  // MARK: Room

  /// Reserves room for a call, in the queue and in memory. A principal may hold as much as it leaves
  /// free: one that floods takes half, and several leave the share of one more, so that none keeps the
  /// others out.
  ///
  /// - Parameters:
  ///   - queue: what the call finds waiting.
  ///   - account: which the call's bytes are counted on from now on.
  /// - Throws: UNAVAILABLE if others leave no room now; RESOURCE_EXHAUSTED if the system has no memory
  ///   for the call, which can happen to a call that is alone.
  func reserve(
    _ plan: Plan, _ queue: Workers.Queue, _ account: Ledger.Account, _ ledger: Ledger
  ) throws(ServerError) {
    let wait = Int((queue.expectedWait / .milliseconds(1)).rounded(.up))
    let retryAfter = max(limits.retryAfterMilliseconds, UInt32(clamping: wait))
    guard queue.tokens == 0 || queue.expectedWait <= limits.queueWaitMax else {
      throw ServerError(
        .unavailable,
        "the queue takes \(wait) ms, the limit is \(limits.queueWaitMax); try again later",
        retryAfterMilliseconds: retryAfter)
    }
    guard
      queue.tokens == 0 || queue.ownTokens + plan.tokens <= limits.queueTokensMax - queue.tokens
    else {
      throw ServerError(
        .unavailable,
        "the queue holds \(queue.tokens) tokens, \(queue.ownTokens) of them from this connection; the limit is \(limits.queueTokensMax), and a connection may hold as much as it leaves free; try again later",
        retryAfterMilliseconds: retryAfter)
    }
    // What has been admitted may not have been allocated yet.
    guard
      plan.bytes < Self.probedBytesMin || Memory.canBeHad(ledger.bytes.occupied + plan.bytes)
    else {
      throw ServerError(
        .resourceExhausted,
        "there is no memory for the request, which may take \(plan.bytes) bytes; send fewer tokens, or try again later",
        retryAfterMilliseconds: retryAfter)
    }
    if let held = account.admit(plan.bytes, limit: limits.admittedBytesMax) {
      throw ServerError(
        .unavailable,
        "requests in flight take \(held.all) bytes, \(held.own) of them for this connection; the limit is \(limits.admittedBytesMax), and a connection may hold as much as it leaves free; try again later",
        retryAfterMilliseconds: retryAfter)
    }
  }
}
