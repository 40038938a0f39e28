import CGranuleProto

/// A request as a server reads it; it can be answered by its id even if its body is wrong.
public struct ReceivedRequest: Sendable {
  /// The client's id for it; 0 is never valid.
  public var id: UInt64
  /// How long the answer is of use, in milliseconds; 0 is for ever.
  public var timeoutMilliseconds: UInt32
  /// What is asked, or why that cannot be read; `Call.validate()` has not been called yet.
  public var body: Result<Request.Body, ServerError>
  /// What the request asks for, even if its body is wrong.
  public let method: CallMethod
  /// Memory that the request takes for as long as any of its bytes are held, in bytes; fields that
  /// this server does not know are counted too.
  public let memoryBytes: Int

  /// Reads a frame's payload, taking at most `memoryBytesMax` bytes of memory for it, and never
  /// more than a sensible message of its length does.
  public init(unpacking payload: UnsafeRawBufferPointer, memoryBytesMax: Int)
    throws(UnpackingError)
  {
    let enough = Self.memoryBytesMax(payloadBytes: payload.count)
    let unpacked = try UnpackedMessage(
      payload, memoryBytesMax: min(memoryBytesMax, enough), unpack: granule__v1__request__unpack)
    memoryBytes = unpacked.memoryBytes
    method = CallMethod(unpacked.message.pointee.body_case)
    id = unpacked.message.pointee.id
    timeoutMilliseconds = unpacked.message.pointee.timeout_ms
    do throws(ServerError) { body = .success(try Request.Body(unpacked)) } catch {
      body = .failure(error)
    }
  }

  /// Bytes and strings take as much as in the frame, packed numbers at most four times that (a
  /// byte becomes a `uint32`); the rest is for structures, and for numbers that a client does not
  /// pack. A frame of nothing but tiny fields would take a hundred times its length.
  private static func memoryBytesMax(payloadBytes: Int) -> Int { 4 * payloadBytes + (64 << 10) }
}

extension CallMethod {
  fileprivate init(_ body: Granule__V1__Request__BodyCase) {
    switch body {
    case GRANULE__V1__REQUEST__BODY_ENCODE: self = .encode
    case GRANULE__V1__REQUEST__BODY_DECODE: self = .decode
    case GRANULE__V1__REQUEST__BODY_LIST_MODELS: self = .listModels
    case GRANULE__V1__REQUEST__BODY_STATUS: self = .status
    case GRANULE__V1__REQUEST__BODY_CANCEL: self = .cancel
    case GRANULE__V1__REQUEST__BODY_LOAD_MODEL: self = .loadModel
    case GRANULE__V1__REQUEST__BODY_UNLOAD_MODEL: self = .unloadModel
    case GRANULE__V1__REQUEST__BODY_RESIZE_MODEL: self = .resizeModel
    default: self = .unknown
    }
  }
}

private typealias UnpackedRequest = UnpackedMessage<Granule__V1__Request>

extension Request.Body {
  fileprivate init(_ unpacked: UnpackedRequest) throws(ServerError) {
    let message = unpacked.message.pointee
    if message.body_case == GRANULE__V1__REQUEST__BODY_CANCEL {
      self = .cancel(requestID: message.cancel.pointee.request_id)
    } else {
      self = .call(try Call(unpacked))
    }
  }
}

extension Call {
  fileprivate init(_ unpacked: UnpackedRequest) throws(ServerError) {
    let message = unpacked.message.pointee
    switch message.body_case {
    case GRANULE__V1__REQUEST__BODY_ENCODE:
      self = .encode(try EncodeRequest(message.encode.pointee, unpacked))
    case GRANULE__V1__REQUEST__BODY_DECODE:
      self = .decode(try DecodeRequest(message.decode.pointee, unpacked))
    case GRANULE__V1__REQUEST__BODY_LIST_MODELS: self = .listModels
    case GRANULE__V1__REQUEST__BODY_STATUS: self = .status
    case GRANULE__V1__REQUEST__BODY_LOAD_MODEL:
      var absent = Granule__V1__LoadModelRequest()
      granule__v1__load_model_request__init(&absent)
      let body = message.load_model.pointee
      self = .loadModel(
        name: try unpacked.string(body.name, absent: absent.name, name: "load_model.name"),
        version: body.version, beside: body.beside != 0)
    case GRANULE__V1__REQUEST__BODY_UNLOAD_MODEL:
      var absent = Granule__V1__UnloadModelRequest()
      granule__v1__unload_model_request__init(&absent)
      let body = message.unload_model.pointee
      self = .unloadModel(
        name: try unpacked.string(body.name, absent: absent.name, name: "unload_model.name"),
        version: body.version)
    case GRANULE__V1__REQUEST__BODY_RESIZE_MODEL:
      var absent = Granule__V1__ResizeModelRequest()
      granule__v1__resize_model_request__init(&absent)
      let body = message.resize_model.pointee
      self = .resizeModel(
        name: try unpacked.string(body.name, absent: absent.name, name: "resize_model.name"),
        granularity: body.granularity)
    default: throw Self.unknownBody(message.base)
    }
  }

  /// A body of a kind that this server's contract does not have arrives as an unknown field.
  private static func unknownBody(_ message: ProtobufCMessage) -> ServerError {
    guard message.n_unknown_fields > 0 else {
      return ServerError(.invalidArgument, "body: is missing; set encode, decode, list_models, …")
    }
    return ServerError(
      .unimplemented,
      "body: field \(message.unknown_fields.pointee.tag) is unknown to this server; it may be older than the client"
    )
  }
}

extension EncodeRequest {
  fileprivate init(_ message: Granule__V1__EncodeRequest, _ unpacked: UnpackedRequest)
    throws(ServerError)
  {
    var absent = Granule__V1__EncodeRequest()
    granule__v1__encode_request__init(&absent)
    guard let activations = message.activations else {
      throw ServerError(.invalidArgument, "encode.activations: is missing")
    }
    self.init(
      model: try unpacked.string(message.model, absent: absent.model, name: "encode.model"),
      version: message.version,
      activations: try PackedTensor(
        activations.pointee, unpacked, field: "encode.activations"),
      granularities: unpacked.array(message.granularities, count: message.n_granularities),
      k: message.k, minGranularity: message.min_granularity, targetFVU: message.target_fvu,
      delta: message.delta != 0, returnReconstruction: message.return_reconstruction != 0,
      omitCodes: message.omit_codes != 0)
  }
}

extension DecodeRequest {
  fileprivate init(_ message: Granule__V1__DecodeRequest, _ unpacked: UnpackedRequest)
    throws(ServerError)
  {
    var absent = Granule__V1__DecodeRequest()
    granule__v1__decode_request__init(&absent)
    guard let codes = message.codes else {
      throw ServerError(.invalidArgument, "decode.codes: is missing")
    }
    self.init(
      model: try unpacked.string(message.model, absent: absent.model, name: "decode.model"),
      version: message.version, codes: PackedCodes(codes.pointee, unpacked))
  }
}

extension PackedTensor {
  init<Message>(
    _ message: Granule__V1__Tensor, _ unpacked: UnpackedMessage<Message>, field: String
  ) throws(ServerError) {
    guard let type = DataType(rawValue: UInt32(message.type.rawValue)) else {
      throw ServerError(
        .invalidArgument,
        "\(field).type: \(message.type.rawValue) is none of 1 (F32), 2 (F16), 3 (BF16)")
    }
    self.init(
      type: type, shape: unpacked.array(message.shape, count: message.n_shape),
      data: unpacked.bytes(message.data))
  }
}

extension PackedCodes {
  init<Message>(_ message: Granule__V1__SparseCodes, _ unpacked: UnpackedMessage<Message>) {
    self.init(
      rowOffsets: unpacked.bytes(message.row_offsets), indices: unpacked.bytes(message.indices),
      values: unpacked.bytes(message.values))
  }
}
