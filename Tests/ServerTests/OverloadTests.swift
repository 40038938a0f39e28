import GranuleClient
import GranuleDictionary
import GranuleServer
import GranuleWire
import TestSupport
import Testing

private let dictionary = SparseAutoencoder.random(
  dModel: 16, latents: 64, rule: .topk(k: 8), seed: 51
) {
  $0.granularities = [
    Granularity(latents: 8, k: 3), Granularity(latents: 16, k: 4), Granularity(latents: 32, k: 6),
    Granularity(latents: 64, k: 8),
  ]
}

@Suite struct OverloadTests {
  /// A server for which every wait is too long, and each raises the pressure.
  private func overloaded() throws -> TestServer {
    try TestServer(["m": dictionary]) {
      $0.workers = 1
      $0.limits.engine.shedAbove = .zero
      $0.limits.engine.shedBelow = .zero
      $0.limits.engine.shedInterval = .zero
    }
  }

  @Test("under load a request gets the largest granularity that it allows, and is told so")
  func shedding() async throws {
    let test = try overloaded()
    let client = try await test.client()
    let activations = Activations(tokens: 5, dModel: 16, seed: 1)
    var request = activations.request("m", 64)
    request.minGranularity = 10
    var seen: [UInt32] = []
    for _ in 1...6 {
      let response = try await client.encode(request)
      seen.append(response.granularity)
      #expect(response.stopReason == (response.granularity == 64 ? .complete : .overload))
      #expect(response.k == UInt32(dictionary.defaultK(at: Int(response.granularity))))
      #expect(
        try response.sparseCodes() == activations.codes(dictionary, Int(response.granularity)))
    }
    // The least is what the caller said, though the dictionary lists it not.
    #expect(seen == [32, 16, 10, 10, 10, 10])
    let status = try await client.status()
    #expect(status.shedRequests == 6)
    #expect(status.pressure > 0)
    #expect(status.computedRequests == 6)

    request.minGranularity = 0
    let unwilling = try await client.encode(request)
    #expect(unwilling.granularity == 64)
    #expect(unwilling.stopReason == .complete)
    // A k of the caller's needs as many latents.
    request.minGranularity = 1
    request.k = 12
    #expect(try await client.encode(request).granularity == 12)
  }

  @Test("under load a stream that allows it ends after a stage")
  func shortenedStream() async throws {
    let test = try overloaded()
    let client = try await test.client()
    let activations = Activations(tokens: 5, dModel: 16, seed: 2)
    var request = activations.request("m")
    request.granularities = [16, 32, 64]
    var stages: [EncodeResponse] = []
    for try await stage in client.encodeStages(request) { stages.append(stage) }
    #expect(stages.map(\.granularity) == [16, 32, 64])
    request.minGranularity = 16
    stages = []
    for try await stage in client.encodeStages(request) { stages.append(stage) }
    #expect(stages.map(\.granularity) == [16])
    #expect(stages.last?.stopReason == .overload)
    #expect(try await client.status().shedRequests == 1)
  }

  @Test("a server without load gives what was asked for")
  func noPressure() async throws {
    let test = try TestServer(["m": dictionary]) {
      $0.limits.engine.shedAbove = .seconds(3600)
    }
    let client = try await test.client()
    var request = Activations(tokens: 5, dModel: 16, seed: 3).request("m")
    request.minGranularity = 1
    for _ in 1...20 {
      let response = try await client.encode(request)
      #expect(response.granularity == 64)
      #expect(response.stopReason == .complete)
    }
    #expect(try await client.status().shedRequests == 0)
  }
}
