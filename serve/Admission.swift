import SparseAutoencoder
import Wire

/// Checks a request against the model that it names, before any work is done for it.
struct Admission {
  let limits: ServerLimits

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
    try refuseStages(request)
    let version = try models.pin(request.model, version: request.version, field: "encode")
    let dictionary = version.dictionary
    let (tokens, columns) = try request.activations.rowsAndColumns(named: "encode.activations")
    guard columns == dictionary.dModel else {
      throw ServerError(
        .invalidArgument,
        "encode.activations.shape: d_model is \(columns); model \(request.model) has \(dictionary.dModel)"
      )
    }
    let granularity = request.granularities.first.map { Int($0) } ?? dictionary.latents
    try check(granularity, version)
    let minGranularity = Int(request.minGranularity)
    guard minGranularity <= granularity else {
      throw ServerError(
        .invalidArgument,
        "encode.min_granularity: is \(minGranularity), above the granularity asked for, \(granularity)"
      )
    }
    let k = try checkedK(Int(request.k), granularity, dictionary)
    let response = responseBytesMax(
      tokens: tokens, activePerToken: k == 0 ? granularity : k, dictionary.dModel, request)
    try checkResponse(
      response, hint: "send fewer tokens, set omit_codes, or ask for a smaller granularity")
    return Plan(
      version: version,
      work: .encode(request, tokens: tokens, granularity: granularity, k: k),
      bytes: requestBytes + response)
  }

  private func refuseStages(_ request: EncodeRequest) throws(ServerError) {
    guard request.granularities.count <= 1 else {
      throw ServerError(
        .unimplemented,
        "encode.granularities: has \(request.granularities.count); this server answers one a request: send a request for each"
      )
    }
    guard !request.delta else {
      throw ServerError(
        .unimplemented, "encode.delta: is not offered by this server; leave it out")
    }
    guard request.targetFVU == 0 else {
      throw ServerError(
        .unimplemented,
        "encode.target_fvu: is not offered by this server; leave it out, and compare the fvu of each response"
      )
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

  /// The k to use; 0 where the selection rule has none.
  private func checkedK(_ k: Int, _ granularity: Int, _ dictionary: SparseAutoencoder)
    throws(ServerError) -> Int
  {
    guard case .topk = dictionary.selectionRule else {
      guard k == 0 else {
        throw ServerError(
          .invalidArgument,
          "encode.k: is \(k), but the model's selection rule, \(dictionary.selectionRule.name), has none; leave it out"
        )
      }
      return 0
    }
    guard k <= granularity else {
      throw ServerError(
        .invalidArgument, "encode.k: is \(k), above the granularity, \(granularity)")
    }
    return k == 0 ? dictionary.defaultK(at: granularity) : k
  }

  /// No product can overflow: tokens are fewer than the bytes of a frame, and the other factors fit
  /// 32 bits.
  private func responseBytesMax(
    tokens: Int, activePerToken: Int, _ dModel: Int, _ request: EncodeRequest
  ) -> Int {
    let codes = request.omitCodes ? 0 : 4 * (tokens + 1) + 8 * tokens * activePerToken
    let reconstruction = request.returnReconstruction ? 4 * tokens * dModel : 0
    return Response.overheadBytesMax + 4 * tokens + codes + reconstruction
  }

  // MARK: Decode

  /// - Parameter requestBytes: memory that the request takes.
  /// - Throws: what is wrong with the request for this server and this model.
  func plan(
    _ request: DecodeRequest, requestBytes: Int, _ models: ResidentModels
  ) throws(ServerError) -> Plan {
    let version = try models.pin(request.model, version: request.version, field: "decode")
    let tokens = try request.codes.tokens()
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

  /// - Parameters:
  ///   - tokens, bytes: what the request adds.
  ///   - waitingTokens, admittedBytes: what is there.
  /// - Throws: UNAVAILABLE where there is no room now. A request alone always has some.
  func checkRoom(tokens: Int, bytes: Int, waitingTokens: Int, admittedBytes: Int)
    throws(ServerError)
  {
    guard waitingTokens == 0 || tokens <= limits.queueTokensMax - waitingTokens else {
      throw ServerError(
        .unavailable,
        "the queue holds \(waitingTokens) tokens, the limit is \(limits.queueTokensMax); try again later",
        retryAfterMilliseconds: limits.retryAfterMilliseconds)
    }
    guard admittedBytes == 0 || bytes <= limits.admittedBytesMax - admittedBytes else {
      throw ServerError(
        .unavailable,
        "requests in flight take \(admittedBytes) bytes, the limit is \(limits.admittedBytesMax); try again later",
        retryAfterMilliseconds: limits.retryAfterMilliseconds)
    }
  }
}
