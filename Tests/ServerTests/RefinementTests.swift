import GranuleClient
import GranuleDictionary
import GranuleServer
import GranuleTensors
import GranuleWire
import TestSupport
import Testing

private let rules: [String: SparseAutoencoder] = [
  "topk": .random(dModel: 24, latents: 160, rule: .topk(k: 12), seed: 31),
  "threshold": .random(
    dModel: 24, latents: 160, rule: .threshold([Float](repeating: 0.4, count: 160)), seed: 32),
  "relu": .random(dModel: 24, latents: 160, rule: .relu, seed: 33),
]
private let granularities: [UInt32] = [1, 20, 33, 100, 160]

@Suite struct RefinementTests {
  @Test(
    "each stage, and the changes applied in order, equal the one-shot answer exactly",
    arguments: ["topk", "threshold", "relu"])
  func stagesEqualOneShot(rule: String) async throws {
    let test = try TestServer(rules)
    let client = try await test.client()
    let dictionary = try #require(rules[rule])
    for tokens in [0, 1, 70, 700] {
      let activations = Activations(tokens: tokens, dModel: 24, seed: UInt64(tokens))
      for delta in [false, true] {
        var request = activations.request(rule)
        request.granularities = granularities
        request.delta = delta
        request.returnReconstruction = true
        var codes: PackedCodes?
        var used: [UInt32] = []
        for try await var stage in client.encodeStages(request) {
          #expect((stage.removed != nil) == (delta && !used.isEmpty))
          if dictionary.selectionRule.name != "topk", let removed = stage.removed {
            #expect(removed.indices.count == 0, "a latent that has become active stays so")
          }
          if let codes { try stage.completeCodes(with: codes) }
          codes = stage.codes
          used.append(stage.granularity)
          let oneShot = try await client.encode(
            activations.request(rule, Int(stage.granularity)))
          #expect(
            try stage.sparseCodes() == activations.codes(dictionary, Int(stage.granularity)),
            "\(tokens) tokens, stage \(used.count)")
          #expect(stage.fvu == oneShot.fvu)
          #expect(stage.k == oneShot.k)
          #expect(
            stage.squaredErrors.array(of: Float.self)
              == oneShot.squaredErrors.array(of: Float.self))
          let decoded = try await client.decode(
            DecodeRequest(model: rule, codes: try #require(stage.codes)))
          #expect(
            stage.reconstruction?.data.array(of: Float.self)
              == decoded.reconstruction.data.array(of: Float.self))
          #expect(stage.stopReason == (stage.granularity == 160 ? .complete : nil))
        }
        #expect(used == granularities)
        #expect(
          try await client.encode(request).sparseCodes() == activations.codes(dictionary, 160))
      }
    }
  }

  @Test("changes are fewer than whole codes, and say nothing of what stayed")
  func deltaIsSmaller() async throws {
    let test = try TestServer(rules)
    let client = try await test.client()
    var request = Activations(tokens: 100, dModel: 24, seed: 3).request("threshold")
    request.granularities = [80, 160]
    request.delta = true
    var sizes: [Int] = []
    for try await stage in client.encodeStages(request) {
      sizes.append(try stage.sparseCodes().indices.count)
    }
    request.delta = false
    let whole = try await client.encode(request).sparseCodes().indices.count
    #expect(sizes.reduce(0, +) == whole)
  }

  @Test("a target for the FVU ends a request after the first stage that reaches it")
  func targetFVU() async throws {
    let test = try TestServer(rules)
    let client = try await test.client()
    var request = Activations(tokens: 300, dModel: 24, seed: 4).request("topk")
    request.granularities = granularities
    var fvus: [Float] = []
    for try await stage in client.encodeStages(request) { fvus.append(try #require(stage.fvu)) }
    // Random dictionaries need not improve from stage to stage: the best of some is a target.
    for target in fvus + [1e-9] {
      request.targetFVU = target
      var stages: [EncodeResponse] = []
      for try await stage in client.encodeStages(request) { stages.append(stage) }
      let reached = fvus.firstIndex { $0 <= target }
      #expect(stages.compactMap(\.fvu) == Array(fvus[...(reached ?? fvus.count - 1)]))
      #expect(stages.last?.stopReason == (reached == nil ? .complete : .targetFVU))
      #expect(stages.dropLast().allSatisfy { $0.stopReason == nil })
    }
  }

  @Test("a stream ends with the version it began with, whatever is loaded meanwhile")
  func pinnedVersion() async throws {
    let slow = (1...2).map {
      SparseAutoencoder.random(dModel: 64, latents: 2048, rule: .topk(k: 16), seed: 40 + $0)
    }
    let test = try TestServer(["m": slow[0]]) { $0.workers = 1 }
    let client = try await test.client()
    let admin = try await test.admin()
    let activations = Activations(tokens: 1500, dModel: 64, seed: 5)
    var request = activations.request("m")
    request.granularities = [256, 512, 1024, 1536, 2048]
    try test.publish(slow[1], "m")
    _ = try await admin.loadModel("m", version: 1)
    var versions: [UInt64] = []
    for try await stage in client.encodeStages(request) {
      if versions.isEmpty { #expect(try await admin.loadModel("m").servingVersion == 2) }
      versions.append(stage.version)
      #expect(try stage.sparseCodes() == activations.codes(slow[0], Int(stage.granularity)))
    }
    #expect(versions == [1, 1, 1, 1, 1])
    #expect(try await client.encode(activations.request("m", 256)).version == 2)
  }

  @Test("a stream that is cancelled, or whose client vanishes, computes no further stages")
  func cancelled() async throws {
    let slow = SparseAutoencoder.random(dModel: 64, latents: 4096, rule: .topk(k: 16), seed: 45)
    let test = try TestServer(["m": slow]) { $0.workers = 1 }
    var request = Activations(tokens: 1000, dModel: 64, seed: 6).request("m")
    request.granularities = (1...50).map { $0 * 80 }
    request.delta = true
    let socket = try test.socket()
    socket.send(Request(id: 1, call: .encode(request)))
    #expect(try socket.receive()?.last == false)
    socket.send(Request(id: 2, body: .cancel(requestID: 1)))
    var stages = 1
    while let response = try socket.receive() {
      if response.id == 2 { break }
      if response.last {
        #expect(response.error?.code == .cancelled)
      } else {
        stages += 1
      }
    }
    #expect(stages < 50)

    func vanish() throws {
      let socket = try test.socket()
      socket.send(Request(id: 1, call: .encode(request)))
      #expect(try socket.receive()?.last == false)
    }
    try vanish()
    let client = try await test.client()
    try await eventually("its stages are dropped") {
      let status = try await client.status()
      return status.cancelledRequests == 2 && status.queuedTokens == 0
    }
    // All stages of both would be hundreds.
    #expect(try await client.status().batches < 200)
  }

  @Test("a stream keeps its connection as long as it lasts, and no longer")
  func streamAlone() async throws {
    let test = try TestServer(rules)
    func stages(of model: String) async throws -> AsyncThrowingStream<EncodeResponse, any Error> {
      var request = Activations(tokens: 20, dModel: 24, seed: 7).request(model)
      request.granularities = granularities
      // Nobody else holds the client.
      return try await test.client().encodeStages(request)
    }
    var used: [UInt32] = []
    for try await stage in try await stages(of: "topk") { used.append(stage.granularity) }
    #expect(used == granularities)
    for try await _ in try await stages(of: "topk") { break }
    do {
      for try await _ in try await stages(of: "none") {}
      Issue.record("there is no such model")
    } catch let error as ServerError {
      #expect(error.code == .notFound)
    }
    let client = try await test.client()
    try await eventually("only the connection that asks is left") {
      try await client.status().connections == 1
    }
  }

  @Test("stages of many streams and requests of other clients are each answered right")
  func manyStreams() async throws {
    let test = try TestServer(rules)
    let clients = [try await test.client(), try await test.client(), try await test.client()]
    let dictionary = try #require(rules["topk"])
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<120 {
        let client = clients[number % 3]
        group.addTask {
          let activations = Activations(tokens: number % 50, dModel: 24, seed: UInt64(number))
          var request = activations.request("topk")
          request.granularities = [UInt32(1 + number % 30), 64, UInt32(100 + number % 60)]
          request.delta = number % 2 == 0
          let response = try await client.encode(request)
          #expect(
            try response.sparseCodes() == activations.codes(dictionary, 100 + number % 60))
        }
      }
      try await group.waitForAll()
    }
  }
}
