import CGranuleProto

extension Response {
  /// The response as one frame; bulk bytes are copied once, from where they lie into the frame.
  public func packed() -> PackedFrame {
    let scratch = PackingScratch()
    let message = scratch.message(granule__v1__response__init)
    message.pointee.id = id
    message.pointee.last = last ? 1 : 0
    switch result {
    case .success(let body): body.pack(into: message, scratch)
    case .failure(let error):
      let body = scratch.message(granule__v1__error__init)
      body.pointee.code = Granule__V1__Code(error.code.rawValue)
      body.pointee.message = scratch.string(error.message)
      body.pointee.retry_after_ms = error.retryAfterMilliseconds
      message.pointee.error = body
    }
    return withExtendedLifetime((self, scratch)) {
      PackedFrame(payloadBytes: granule__v1__response__get_packed_size(message)) {
        granule__v1__response__pack(message, $0)
      }
    }
  }

  /// Payload bytes that a response can take beside its bulk fields: tags, lengths, numbers and a
  /// name.
  public static let overheadBytesMax = 1024
}

extension Response.Body {
  fileprivate func pack(
    into message: UnsafeMutablePointer<Granule__V1__Response>, _ scratch: PackingScratch
  ) {
    switch self {
    case .encode(let response):
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_ENCODE
      message.pointee.encode = response.message(scratch)
    case .decode(let response):
      let body = scratch.message(granule__v1__decode_response__init)
      body.pointee.model = scratch.string(response.model)
      body.pointee.version = response.version
      body.pointee.reconstruction = scratch.tensor(response.reconstruction)
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_DECODE
      message.pointee.decode = body
    case .listModels(let models):
      let body = scratch.message(granule__v1__list_models_response__init)
      body.pointee.n_models = models.count
      body.pointee.models = scratch.array(models.map { Optional($0.message(scratch)) })
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_LIST_MODELS
      message.pointee.list_models = body
    case .status(let status):
      let body = scratch.message(granule__v1__status_response__init)
      body.pointee.ready = status.ready ? 1 : 0
      body.pointee.server_version = scratch.string(status.serverVersion)
      body.pointee.connections = status.connections
      body.pointee.queued_requests = status.queuedRequests
      body.pointee.queued_tokens = status.queuedTokens
      body.pointee.uptime_seconds = status.uptimeSeconds
      body.pointee.pressure = status.pressure
      body.pointee.computed_requests = status.computedRequests
      body.pointee.batches = status.batches
      body.pointee.shed_requests = status.shedRequests
      body.pointee.refused_requests = status.refusedRequests
      body.pointee.expired_requests = status.expiredRequests
      body.pointee.cancelled_requests = status.cancelledRequests
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_STATUS
      message.pointee.status = body
    case .cancel(let found):
      let body = scratch.message(granule__v1__cancel_response__init)
      body.pointee.found = found ? 1 : 0
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_CANCEL
      message.pointee.cancel = body
    case .model(let model):
      let body = scratch.message(granule__v1__model_response__init)
      body.pointee.model = model.message(scratch)
      message.pointee.body_case = GRANULE__V1__RESPONSE__BODY_MODEL
      message.pointee.model = body
    }
  }
}

extension EncodeResponse {
  fileprivate func message(_ scratch: PackingScratch)
    -> UnsafeMutablePointer<Granule__V1__EncodeResponse>
  {
    let message = scratch.message(granule__v1__encode_response__init)
    message.pointee.model = scratch.string(model)
    message.pointee.version = version
    message.pointee.granularity = granularity
    message.pointee.k = k
    message.pointee.codes = codes.map { scratch.codes($0) }
    message.pointee.removed = removed.map { scratch.codes($0) }
    message.pointee.reconstruction = reconstruction.map { scratch.tensor($0) }
    message.pointee.has_fvu = fvu == nil ? 0 : 1
    message.pointee.fvu = fvu ?? 0
    message.pointee.squared_errors = scratch.bytes(squaredErrors)
    message.pointee.stop_reason = Granule__V1__StopReason(stopReason?.rawValue ?? 0)
    message.pointee.queue_nanoseconds = queueNanoseconds
    message.pointee.compute_nanoseconds = computeNanoseconds
    return message
  }
}

extension ModelStatus {
  fileprivate func message(_ scratch: PackingScratch) -> UnsafeMutablePointer<Granule__V1__Model> {
    let message = scratch.message(granule__v1__model__init)
    message.pointee.name = scratch.string(name)
    message.pointee.serving_version = servingVersion
    message.pointee.pinned = pinned ? 1 : 0
    message.pointee.n_versions = versions.count
    message.pointee.versions = scratch.array(versions.map { Optional($0.message(scratch)) })
    return message
  }
}

extension ModelVersionStatus {
  fileprivate func message(_ scratch: PackingScratch)
    -> UnsafeMutablePointer<Granule__V1__ModelVersion>
  {
    let message = scratch.message(granule__v1__model_version__init)
    message.pointee.version = version
    message.pointee.state = Granule__V1__ModelState(state.rawValue)
    message.pointee.failure = scratch.string(failure)
    message.pointee.d_model = dModel
    message.pointee.latents = latents
    message.pointee.resident_latents = residentLatents
    message.pointee.resident_bytes = residentBytes
    message.pointee.selection_rule = scratch.string(selectionRule)
    message.pointee.n_granularities = granularities.count
    message.pointee.granularities = scratch.array(
      granularities.map { granularity in
        let part = scratch.message(granule__v1__granularity__init)
        part.pointee.latents = granularity.latents
        part.pointee.k = granularity.k
        part.pointee.l0 = granularity.l0
        part.pointee.fvu = granularity.fvu
        return Optional(part)
      })
    message.pointee.language_model = scratch.string(languageModel)
    message.pointee.hook = scratch.string(hook)
    message.pointee.sha256 = scratch.string(sha256)
    return message
  }
}
