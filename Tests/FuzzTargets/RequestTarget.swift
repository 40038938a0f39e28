internal import GranuleTensors
internal import GranuleWire

extension FuzzTarget {
  /// A frame's payload as a server reads it. What is understood can be written again and means the
  /// same; codes that pass the wire's checks are sound codes.
  static let request = FuzzTarget(
    name: "request", seeds: { requests.map { Seed(payload($0.packed().payload)) } },
    run: { bytes in
      let memoryBytesMax = 1 << 20
      let received: ReceivedRequest
      do throws(UnpackingError) {
        received = try ReceivedRequest(unpacking: bytes, memoryBytesMax: memoryBytesMax)
      } catch { return .refused }
      try require(received.memoryBytes <= memoryBytesMax, "memory stays within the limit")
      guard case .success(let body) = received.body else { return .refused }
      if case .call(let call) = body {
        do throws(ServerError) { try call.validate() } catch { return .refused }
      }
      if case .call(.decode(let request)) = body { try checkCodes(request.codes) }
      let packed = Request(
        id: received.id, timeoutMilliseconds: received.timeoutMilliseconds, body: body
      ).packed().payload
      let again = try packed.withBytes {
        try ReceivedRequest(unpacking: $0, memoryBytesMax: 2 * memoryBytesMax)
      }
      guard case .success(let body) = again.body else {
        throw Finding(description: "a request that was understood is understood again")
      }
      let packedAgain = Request(
        id: again.id, timeoutMilliseconds: again.timeoutMilliseconds, body: body
      ).packed().payload
      try require(payload(packed) == payload(packedAgain), "a request keeps its meaning")
      return .accepted
    })

  private static var requests: [Request] {
    let values: [Float] = [1, -2, 3, 0.5, 0.25, -0.125]
    let codes = PackedCodes(rowOffsets: [0, 2, 2, 3], indices: [1, 7, 3], values: [1, 0.5, 2])
    func activations(_ type: DataType, _ shape: [UInt32]) -> PackedTensor {
      let bytes = values.withUnsafeBytes { Array($0) }
      let count = shape.reduce(type.byteCount) { $0 * Int($1) }
      return PackedTensor(
        type: type, shape: shape, data: SharedBytes(copying: Array(bytes.prefix(count))))
    }
    var encode = EncodeRequest(
      model: "a-model", activations: activations(.float32, [2, 3]), granularities: [4, 16, 64])
    encode.version = 3
    encode.k = 5
    encode.minGranularity = 2
    encode.targetFVU = 0.25
    encode.delta = true
    encode.returnReconstruction = true
    encode.omitCodes = true
    let bodies: [Request.Body] = [
      .call(.encode(encode)),
      .call(.encode(EncodeRequest(model: "m", activations: activations(.bfloat16, [3, 4])))),
      .call(.decode(DecodeRequest(model: "m", version: 1, codes: codes))), .call(.listModels),
      .call(.status), .cancel(requestID: 77),
      .call(.loadModel(name: "m", version: 2, beside: true)),
      .call(.unloadModel(name: "m", version: 1)), .call(.resizeModel(name: "m", granularity: 8)),
    ]
    return bodies.enumerated().map {
      Request(id: UInt64($0 + 1), timeoutMilliseconds: UInt32($0 * 100), body: $1)
    }
  }
}

/// A message's bytes.
func payload(_ bytes: SharedBytes) -> [UInt8] { bytes.array(of: UInt8.self) }

/// Checks codes as a server does before it decodes them; sound ones survive a copy.
func checkCodes(_ codes: PackedCodes) throws {
  let sound: SparseCodes
  do throws(ServerError) { sound = try codes.sparseCodes(latents: 1 << 16) } catch { return }
  let again = PackedCodes(joining: [sound])
  try require(
    payload(again.rowOffsets) == payload(codes.rowOffsets)
      && payload(again.indices) == payload(codes.indices)
      && payload(again.values) == payload(codes.values), "sound codes keep their meaning")
}
