import GranuleWire
import Testing

/// Reads a request back from its own frame.
func reread(_ request: Request, memoryBytesMax: Int = 1 << 20) throws -> ReceivedRequest {
  try request.packed().payload.withBytes {
    try ReceivedRequest(unpacking: $0, memoryBytesMax: memoryBytesMax)
  }
}

/// Reads a response back from its own frame.
func reread(_ response: Response) throws -> Response {
  try response.packed().payload.withBytes {
    try Response(unpacking: $0, memoryBytesMax: 1 << 20)
  }
}

func receive(_ payload: [UInt8], memoryBytesMax: Int = 1 << 20) throws -> ReceivedRequest {
  try payload.withUnsafeBytes {
    try ReceivedRequest(unpacking: $0, memoryBytesMax: memoryBytesMax)
  }
}

func matrix(_ rows: Int, _ columns: Int) -> PackedTensor {
  PackedTensor(
    type: .float32, shape: [UInt32(rows), UInt32(columns)],
    data: SharedBytes(copying: (0..<rows * columns).map { Float($0) }))
}

extension ReceivedRequest {
  /// The call, checked as an engine checks it.
  func call() throws -> Call {
    guard case .call(let call) = try body.get() else { throw ServerError(.internal, "no call") }
    try call.validate()
    return call
  }
}

@Suite struct MessageTests {
  @Test("an encode request arrives as it was sent")
  func encodeRequest() throws {
    let sent = EncodeRequest(
      model: "m", version: 7, activations: matrix(3, 5), granularities: [1, 8, 64], k: 4,
      minGranularity: 1, targetFVU: 0.25, delta: true, returnReconstruction: true, omitCodes: true)
    let received = try reread(Request(id: 9, timeoutMilliseconds: 50, call: .encode(sent)))
    #expect(received.id == 9)
    #expect(received.timeoutMilliseconds == 50)
    guard case .encode(let request) = try received.call() else {
      Issue.record("not an encode request")
      return
    }
    #expect(request.model == "m")
    #expect(request.version == 7)
    #expect(request.activations.shape == [3, 5])
    #expect(request.activations.data.array(of: Float.self) == (0..<15).map { Float($0) })
    #expect(request.granularities == [1, 8, 64])
    #expect(request.k == 4)
    #expect(request.minGranularity == 1)
    #expect(request.targetFVU == 0.25)
    #expect(request.delta && request.returnReconstruction && request.omitCodes)
  }

  @Test("every other kind of request arrives as it was sent")
  func otherRequests() throws {
    let calls: [Call] = [
      .listModels, .status, .loadModel(name: "a", version: 2, beside: true),
      .unloadModel(name: "b", version: 4), .resizeModel(name: "c", granularity: 5),
    ]
    for body in calls.map({ Request.Body.call($0) }) + [.cancel(requestID: 3)] {
      let received = try reread(Request(id: 1, body: body)).body.get()
      #expect("\(received)" == "\(body)")
    }
    let codes = PackedCodes(rowOffsets: [0, 2, 2], indices: [1, 4], values: [0.5, 2])
    let received = try reread(
      Request(id: 1, call: .decode(DecodeRequest(model: "m", codes: codes))))
    guard case .decode(let request) = try received.call() else {
      Issue.record("not a decode request")
      return
    }
    #expect(try request.codes.tokens() == 2)
    #expect(request.codes.values.array(of: Float.self) == [0.5, 2])
  }

  @Test("an encode response arrives as it was sent")
  func encodeResponse() throws {
    let sent = EncodeResponse(
      model: "m", version: 3, granularity: 8, k: 2,
      codes: PackedCodes(rowOffsets: [0, 1], indices: [6], values: [1.5]),
      reconstruction: matrix(1, 4), fvu: 0.5, squaredErrors: SharedBytes(copying: [Float(2)]),
      stopReason: .complete, queueNanoseconds: 11, computeNanoseconds: 12)
    let received = try reread(Response(id: 5, result: .success(.encode(sent))))
    #expect(received.id == 5)
    #expect(received.last)
    guard case .encode(let response) = try received.result.get() else {
      Issue.record("not an encode response")
      return
    }
    #expect(response.version == 3)
    #expect(response.codes?.indices.array(of: UInt32.self) == [6])
    #expect(response.removed == nil)
    #expect(response.reconstruction?.shape == [1, 4])
    #expect(response.fvu == 0.5)
    #expect(response.squaredErrors.array(of: Float.self) == [2])
    #expect(response.stopReason == .complete)
    #expect(response.queueNanoseconds == 11)
    #expect(response.computeNanoseconds == 12)
  }

  @Test("models, status and errors arrive as they were sent")
  func otherResponses() throws {
    var version = ModelVersionStatus(version: 4, state: .ready)
    version.dModel = 8
    version.residentBytes = 1 << 40
    version.selectionRule = "topk"
    version.granularities = [CalibratedGranularity(latents: 2, k: 1, l0: 0.5, fvu: 0.75)]
    version.hook = "μ"
    let model = ModelStatus(
      name: "m", servingVersion: 4, pinned: true,
      versions: [ModelVersionStatus(version: 3, state: .failed, failure: "bad"), version])
    func again(_ body: Response.Body) throws -> Response.Body {
      try reread(Response(id: 1, result: .success(body))).result.get()
    }
    guard case .listModels(let models) = try again(.listModels([model, model])),
      case .model(let single) = try again(.model(model))
    else {
      Issue.record("another kind of response")
      return
    }
    #expect(models == [model, model])
    #expect(single == model)
    let status = ServerStatus(
      ready: true, serverVersion: "1", connections: 2, queuedRequests: 3, queuedTokens: 4,
      uptimeSeconds: 5.5, pressure: 6, computedRequests: 7, batches: 8, shedRequests: 9,
      refusedRequests: 10, expiredRequests: 11, cancelledRequests: 12)
    guard case .status(let received) = try again(.status(status)) else {
      Issue.record("another kind of response")
      return
    }
    #expect(received == status)
    let error = ServerError(.unavailable, "full", retryAfterMilliseconds: 7)
    let response = try reread(Response(id: 1, result: .failure(error)))
    #expect(throws: error) { try response.result.get() }
  }
}
