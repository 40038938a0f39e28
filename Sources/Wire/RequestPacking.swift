import CGranuleProto

extension Request {
  /// The request as one frame.
  public func packed() -> PackedFrame {
    let scratch = PackingScratch()
    let message = scratch.message(granule__v1__request__init)
    message.pointee.id = id
    message.pointee.timeout_ms = timeoutMilliseconds
    body.pack(into: message, scratch)
    return withExtendedLifetime((self, scratch)) {
      PackedFrame(payloadBytes: granule__v1__request__get_packed_size(message)) {
        granule__v1__request__pack(message, $0)
      }
    }
  }
}

extension Request.Body {
  fileprivate func pack(
    into message: UnsafeMutablePointer<Granule__V1__Request>, _ scratch: PackingScratch
  ) {
    switch self {
    case .call(let call): call.pack(into: message, scratch)
    case .cancel(let requestID):
      let body = scratch.message(granule__v1__cancel_request__init)
      body.pointee.request_id = requestID
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_CANCEL
      message.pointee.cancel = body
    }
  }
}

extension Call {
  fileprivate func pack(
    into message: UnsafeMutablePointer<Granule__V1__Request>, _ scratch: PackingScratch
  ) {
    switch self {
    case .encode(let request):
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_ENCODE
      message.pointee.encode = request.message(scratch)
    case .decode(let request):
      let body = scratch.message(granule__v1__decode_request__init)
      body.pointee.model = scratch.string(request.model)
      body.pointee.version = request.version
      body.pointee.codes = scratch.codes(request.codes)
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_DECODE
      message.pointee.decode = body
    case .listModels:
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_LIST_MODELS
      message.pointee.list_models = scratch.message(granule__v1__list_models_request__init)
    case .status:
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_STATUS
      message.pointee.status = scratch.message(granule__v1__status_request__init)
    case .loadModel(let name, let version, let beside):
      let body = scratch.message(granule__v1__load_model_request__init)
      body.pointee.name = scratch.string(name)
      body.pointee.version = version
      body.pointee.beside = beside ? 1 : 0
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_LOAD_MODEL
      message.pointee.load_model = body
    case .unloadModel(let name, let version):
      let body = scratch.message(granule__v1__unload_model_request__init)
      body.pointee.name = scratch.string(name)
      body.pointee.version = version
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_UNLOAD_MODEL
      message.pointee.unload_model = body
    case .resizeModel(let name, let granularity):
      let body = scratch.message(granule__v1__resize_model_request__init)
      body.pointee.name = scratch.string(name)
      body.pointee.granularity = granularity
      message.pointee.body_case = GRANULE__V1__REQUEST__BODY_RESIZE_MODEL
      message.pointee.resize_model = body
    }
  }
}

extension EncodeRequest {
  fileprivate func message(_ scratch: PackingScratch)
    -> UnsafeMutablePointer<Granule__V1__EncodeRequest>
  {
    let message = scratch.message(granule__v1__encode_request__init)
    message.pointee.model = scratch.string(model)
    message.pointee.version = version
    message.pointee.activations = scratch.tensor(activations)
    message.pointee.n_granularities = granularities.count
    message.pointee.granularities = scratch.array(granularities)
    message.pointee.k = k
    message.pointee.min_granularity = minGranularity
    message.pointee.target_fvu = targetFVU
    message.pointee.delta = delta ? 1 : 0
    message.pointee.return_reconstruction = returnReconstruction ? 1 : 0
    message.pointee.omit_codes = omitCodes ? 1 : 0
    return message
  }
}
