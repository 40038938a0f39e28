import CGranuleProto

/// Why a response that is a protobuf message still makes no sense: which field, and what is wrong
/// with it.
public struct ResponseError: Error, Sendable, CustomStringConvertible {
  /// Which field, and what is wrong with it.
  public let description: String
}

extension Response {
  /// Reads a frame's payload, taking at most `memoryBytesMax` bytes of memory for it.
  ///
  /// Throws `UnpackingError` or `ResponseError`.
  public init(unpacking payload: UnsafeRawBufferPointer, memoryBytesMax: Int) throws {
    let unpacked = try UnpackedMessage(
      payload, memoryBytesMax: memoryBytesMax, unpack: granule__v1__response__unpack)
    let message = unpacked.message.pointee
    let result: Result<Body, ServerError>
    do throws(ServerError) {
      if let error = message.error {
        result = .failure(try ServerError(error.pointee, unpacked))
      } else {
        result = .success(try Body(unpacked))
      }
    } catch {
      throw ResponseError(description: error.message)
    }
    self.init(id: message.id, last: message.last != 0, result: result)
  }
}

private typealias UnpackedResponse = UnpackedMessage<Granule__V1__Response>

extension ServerError {
  fileprivate init(_ message: Granule__V1__Error, _ unpacked: UnpackedResponse) throws(ServerError)
  {
    var absent = Granule__V1__Error()
    granule__v1__error__init(&absent)
    self.init(
      // A code that this contract does not have yet is still an error.
      ErrorCode(rawValue: UInt32(message.code.rawValue)) ?? .internal,
      try unpacked.string(message.message, absent: absent.message, name: "error.message"),
      retryAfterMilliseconds: message.retry_after_ms)
  }
}

extension Response.Body {
  fileprivate init(_ unpacked: UnpackedResponse) throws(ServerError) {
    let message = unpacked.message.pointee
    switch message.body_case {
    case GRANULE__V1__RESPONSE__BODY_ENCODE:
      self = .encode(try EncodeResponse(message.encode.pointee, unpacked))
    case GRANULE__V1__RESPONSE__BODY_DECODE:
      self = .decode(try DecodeResponse(message.decode.pointee, unpacked))
    case GRANULE__V1__RESPONSE__BODY_LIST_MODELS:
      let body = message.list_models.pointee
      var models: [ModelStatus] = []
      for model in UnsafeBufferPointer(start: body.models, count: body.n_models) {
        if let model { models.append(try ModelStatus(model.pointee, unpacked)) }
      }
      self = .listModels(models)
    case GRANULE__V1__RESPONSE__BODY_STATUS:
      self = .status(try ServerStatus(message.status.pointee, unpacked))
    case GRANULE__V1__RESPONSE__BODY_CANCEL:
      self = .cancel(found: message.cancel.pointee.found != 0)
    case GRANULE__V1__RESPONSE__BODY_MODEL:
      guard let model = message.model.pointee.model else {
        throw ServerError(.internal, "model.model: is missing")
      }
      self = .model(try ModelStatus(model.pointee, unpacked))
    default:
      throw ServerError(.internal, "body: is missing, or unknown to this client")
    }
  }
}

extension EncodeResponse {
  fileprivate init(_ message: Granule__V1__EncodeResponse, _ unpacked: UnpackedResponse)
    throws(ServerError)
  {
    var absent = Granule__V1__EncodeResponse()
    granule__v1__encode_response__init(&absent)
    self.init(
      model: try unpacked.string(message.model, absent: absent.model, name: "encode.model"),
      version: message.version, granularity: message.granularity, k: message.k,
      codes: message.codes.map { PackedCodes($0.pointee, unpacked) },
      removed: message.removed.map { PackedCodes($0.pointee, unpacked) },
      reconstruction: try PackedTensor(
        optional: message.reconstruction, unpacked, field: "encode.reconstruction"),
      fvu: message.has_fvu == 0 ? nil : message.fvu,
      squaredErrors: unpacked.bytes(message.squared_errors),
      stopReason: StopReason(rawValue: UInt32(message.stop_reason.rawValue)),
      queueNanoseconds: message.queue_nanoseconds,
      computeNanoseconds: message.compute_nanoseconds)
  }
}

extension PackedTensor {
  fileprivate init?(
    optional message: UnsafeMutablePointer<Granule__V1__Tensor>?, _ unpacked: UnpackedResponse,
    field: String
  ) throws(ServerError) {
    guard let message else { return nil }
    try self.init(message.pointee, unpacked, field: field)
    _ = try rowsAndColumns(named: field)
  }
}

extension DecodeResponse {
  fileprivate init(_ message: Granule__V1__DecodeResponse, _ unpacked: UnpackedResponse)
    throws(ServerError)
  {
    var absent = Granule__V1__DecodeResponse()
    granule__v1__decode_response__init(&absent)
    guard
      let reconstruction = try PackedTensor(
        optional: message.reconstruction, unpacked, field: "decode.reconstruction")
    else { throw ServerError(.internal, "decode.reconstruction: is missing") }
    self.init(
      model: try unpacked.string(message.model, absent: absent.model, name: "decode.model"),
      version: message.version, reconstruction: reconstruction)
  }
}

extension ServerStatus {
  fileprivate init(_ message: Granule__V1__StatusResponse, _ unpacked: UnpackedResponse)
    throws(ServerError)
  {
    var absent = Granule__V1__StatusResponse()
    granule__v1__status_response__init(&absent)
    self.init(
      ready: message.ready != 0,
      serverVersion: try unpacked.string(
        message.server_version, absent: absent.server_version, name: "status.server_version"),
      connections: message.connections, queuedRequests: message.queued_requests,
      queuedTokens: message.queued_tokens, uptimeSeconds: message.uptime_seconds,
      pressure: message.pressure, computedRequests: message.computed_requests,
      batches: message.batches, shedRequests: message.shed_requests,
      refusedRequests: message.refused_requests, expiredRequests: message.expired_requests,
      cancelledRequests: message.cancelled_requests)
  }
}

extension ModelStatus {
  fileprivate init(_ message: Granule__V1__Model, _ unpacked: UnpackedResponse) throws(ServerError)
  {
    var absent = Granule__V1__Model()
    granule__v1__model__init(&absent)
    var versions: [ModelVersionStatus] = []
    for version in UnsafeBufferPointer(start: message.versions, count: message.n_versions) {
      if let version { versions.append(try ModelVersionStatus(version.pointee, unpacked)) }
    }
    self.init(
      name: try unpacked.string(message.name, absent: absent.name, name: "model.name"),
      servingVersion: message.serving_version, pinned: message.pinned != 0, versions: versions)
  }
}

extension ModelVersionStatus {
  fileprivate init(_ message: Granule__V1__ModelVersion, _ unpacked: UnpackedResponse)
    throws(ServerError)
  {
    var absent = Granule__V1__ModelVersion()
    granule__v1__model_version__init(&absent)
    guard let state = ModelState(rawValue: UInt32(message.state.rawValue)) else {
      throw ServerError(.internal, "model.versions.state: \(message.state.rawValue) is unknown")
    }
    self.init(
      version: message.version, state: state,
      failure: try unpacked.string(
        message.failure, absent: absent.failure, name: "model.versions.failure"))
    dModel = message.d_model
    latents = message.latents
    residentLatents = message.resident_latents
    residentBytes = message.resident_bytes
    selectionRule = try unpacked.string(
      message.selection_rule, absent: absent.selection_rule, name: "model.versions.selection_rule")
    for part in UnsafeBufferPointer(start: message.granularities, count: message.n_granularities) {
      guard let part = part?.pointee else { continue }
      granularities.append(
        CalibratedGranularity(latents: part.latents, k: part.k, l0: part.l0, fvu: part.fvu))
    }
    languageModel = try unpacked.string(
      message.language_model, absent: absent.language_model, name: "model.versions.language_model")
    hook = try unpacked.string(message.hook, absent: absent.hook, name: "model.versions.hook")
    sha256 = try unpacked.string(
      message.sha256, absent: absent.sha256, name: "model.versions.sha256")
  }
}
