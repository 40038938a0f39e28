internal import GranuleWire

extension FuzzTarget {
  /// A frame's payload as a client reads it. What is understood can be written again and means the
  /// same; changes are applied to the codes before them, or refused.
  static let response = FuzzTarget(
    name: "response", seeds: { responses.map { Seed(payload($0.packed().payload)) } },
    run: { bytes in
      let memoryBytesMax = 1 << 20
      let response: Response
      do {
        response = try Response(unpacking: bytes, memoryBytesMax: memoryBytesMax)
      } catch {
        try require(error is UnpackingError || error is ResponseError, "the error has a type")
        return .refused
      }
      if case .success(.encode(let stage)) = response.result { try use(stage) }
      let packed = response.packed().payload
      let again = try packed.withBytes {
        try Response(unpacking: $0, memoryBytesMax: 2 * memoryBytesMax)
      }
      try require(
        payload(again.packed().payload) == payload(packed), "a response keeps its meaning")
      return .accepted
    })

  private static func use(_ stage: EncodeResponse) throws {
    if let codes = stage.codes { try checkCodes(codes) }
    for previous in [codes, stage.codes].compactMap({ $0 }) {
      var complete = stage
      do throws(ServerError) { try complete.completeCodes(with: previous) } catch { continue }
      guard let result = complete.codes, stage.removed != nil else { continue }
      // The difference of sound codes leads from the one to the other.
      do throws(ServerError) {
        try result.check()
        try previous.check()
      } catch { continue }
      let (changed, removed) = result.difference(from: previous)
      let applied = try previous.applying(changed: changed, removed: removed)
      try require(
        payload(applied.rowOffsets) == payload(result.rowOffsets)
          && payload(applied.indices) == payload(result.indices)
          && payload(applied.values) == payload(result.values),
        "the difference of two codes leads from one to the other")
    }
  }

  private static var codes: PackedCodes {
    PackedCodes(rowOffsets: [0, 2, 2, 3], indices: [1, 7, 3], values: [1, 0.5, 2])
  }

  private static var responses: [Response] {
    let reconstruction = PackedTensor(
      type: .float32, shape: [1, 2], data: SharedBytes(copying: [Float](repeating: 1, count: 2)))
    var version = ModelVersionStatus(version: 1, state: .ready)
    version.dModel = 3
    version.latents = 64
    version.residentLatents = 32
    version.residentBytes = 1 << 33
    version.selectionRule = "topk"
    version.granularities = [.init(latents: 16, k: 4, l0: 3.5, fvu: 0.25)]
    version.languageModel = "tiny"
    version.hook = "blocks.1.hook_resid_pre"
    version.sha256 = "00ff"
    let model = ModelStatus(
      name: "m", servingVersion: 1, pinned: true,
      versions: [version, ModelVersionStatus(version: 2, state: .failed, failure: "no b_dec")])
    let bodies: [Response.Body] = [
      .encode(encoded(reconstruction)),
      .decode(DecodeResponse(model: "m", version: 1, reconstruction: reconstruction)),
      .listModels([model, ModelStatus(name: "n", servingVersion: 0, pinned: false, versions: [])]),
      .cancel(found: true), .model(model),
    ]
    let failure = ServerError(.unavailable, "the queue is full", retryAfterMilliseconds: 100)
    return bodies.enumerated().map { Response(id: UInt64($0), result: .success($1)) }
      + [Response(id: 9, result: .failure(failure))]
  }

  private static func encoded(_ reconstruction: PackedTensor) -> EncodeResponse {
    EncodeResponse(
      model: "m", version: 1, granularity: 16, k: 4, codes: codes,
      removed: PackedCodes(rowOffsets: [0, 1, 1, 1], indices: [1], values: []),
      reconstruction: reconstruction, fvu: 0.5,
      squaredErrors: SharedBytes(copying: [Float](repeating: 0.5, count: 3)),
      stopReason: .complete, queueNanoseconds: 10, computeNanoseconds: 20)
  }
}
