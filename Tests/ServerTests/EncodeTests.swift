import GranuleClient
import GranuleDictionary
import GranuleEncoder
import GranuleServer
import GranuleTensors
import GranuleWire
import TestSupport
import Testing

private let rules: [String: SparseAutoencoder] = [
  "topk": .random(dModel: 24, latents: 160, rule: .topk(k: 12), seed: 1),
  "threshold": .random(
    dModel: 24, latents: 160, rule: .threshold([Float](repeating: 0.4, count: 160)), seed: 2),
  "relu": .random(dModel: 24, latents: 160, rule: .relu, seed: 3),
  "no-mean": .random(dModel: 24, latents: 160, rule: .topk(k: 12), seed: 4) {
    $0.activationMean = nil
  },
]

@Suite struct EncodeTests {
  @Test("codes, errors and FVU over the wire are those of the same process, at any granularity")
  func matchesInProcess() async throws {
    let test = try TestServer(rules)
    let client = try await test.client()
    for (name, dictionary) in rules {
      for (tokens, granularity) in [(1, 160), (7, 1), (300, 33), (700, 160), (64, 0)] {
        let activations = Activations(tokens: tokens, dModel: 24, seed: UInt64(tokens))
        var request = activations.request(name, granularity)
        request.returnReconstruction = true
        let response = try await client.encode(request)
        let used = granularity == 0 ? 160 : granularity
        let codes = try activations.codes(dictionary, used)
        #expect(try response.sparseCodes() == codes, "\(name) G \(granularity) tokens \(tokens)")
        #expect(response.version == 1)
        #expect(response.granularity == UInt32(used))
        #expect(response.k == UInt32(dictionary.defaultK(at: used)))
        #expect(response.stopReason == .complete)

        var errors = [Float](repeating: 0, count: tokens)
        var reconstruction = [Float](repeating: 0, count: tokens * 24)
        let variance = try activations.values.withUnsafeBufferPointer { values in
          try SparseEncoder(dictionary).nestedDecode(
            codes, activations: values, granularities: [used], squaredErrors: &errors,
            reconstructions: &reconstruction)
          return dictionary.totalVariance(of: values)
        }
        #expect(response.squaredErrors.array(of: Float.self) == errors)
        #expect(response.reconstruction?.shape == [UInt32(tokens), 24])
        #expect(response.reconstruction?.data.array(of: Float.self) == reconstruction)
        if let variance {
          let fvu = try #require(response.fvu)
          let expected = errors.reduce(0.0) { $0 + Double($1) } / variance
          #expect(abs(Double(fvu) - expected) <= 1e-6 * expected)
        } else {
          #expect(response.fvu == nil)
        }

        let decoded = try await client.decode(
          DecodeRequest(model: name, codes: try #require(response.codes)))
        #expect(decoded.reconstruction.data.array(of: Float.self) == reconstruction)
      }
    }
  }

  @Test("a long decoding is computed in pieces, and a wrong row in one of them is named")
  func longDecoding() async throws {
    let dictionary = SparseAutoencoder.random(dModel: 24, latents: 300, rule: .relu, seed: 9)
    let test = try TestServer(["m": dictionary]) { $0.limits.engine.batchTokensMax = 64 }
    let client = try await test.client()
    let activations = Activations(tokens: 1000, dModel: 24, seed: 6)
    let codes = try activations.codes(dictionary, 300)
    let expected = try SparseEncoder(dictionary).decode(codes)
    func decode(_ indices: [UInt32]) async throws -> [Float] {
      try await client.decode(
        DecodeRequest(
          model: "m",
          codes: PackedCodes(
            rowOffsets: codes.rowOffsets, indices: indices, values: codes.values))
      ).reconstruction.data.array(of: Float.self)
    }
    let isSame = try await decode(codes.indices) == expected
    #expect(isSame)
    #expect(try await client.status().batches > 10)
    var wrong = codes.indices
    wrong[Int(codes.rowOffsets[701])] = 300
    let error = await #expect(throws: ServerError.self) { try await decode(wrong) }
    #expect(error?.message.contains("token 701") == true)
  }

  @Test("no tokens, half precision, a k of the caller's and no codes are answered as asked")
  func variants() async throws {
    let test = try TestServer(rules)
    let client = try await test.client()
    let dictionary = try #require(rules["topk"])
    let none = try await client.encode(
      Activations(tokens: 0, dModel: 24, seed: 0).request("topk"))
    #expect(none.codes?.rowOffsets.array(of: UInt32.self) == [0])
    #expect(none.fvu == nil)

    let activations = Activations(tokens: 20, dModel: 24, seed: 5)
    let ownK = try await client.encode(activations.request("topk", 100, k: 3))
    #expect(try ownK.sparseCodes() == activations.codes(dictionary, 100, k: 3))
    #expect(ownK.k == 3)

    var withoutCodes = activations.request("topk")
    withoutCodes.omitCodes = true
    #expect(try await client.encode(withoutCodes).codes == nil)

    let upperHalves = activations.values.map { UInt16($0.bitPattern >> 16) }
    var bfloat16 = activations.request("topk")
    bfloat16.activations = PackedTensor(
      type: .bfloat16, shape: [20, 24], data: SharedBytes(copying: upperHalves))
    let rounded = upperHalves.map { Float(bitPattern: UInt32($0) << 16) }
    let expected = try dictionary.encoded(rounded, granularity: 160)
    #expect(try await client.encode(bfloat16).sparseCodes() == expected)
  }

  @Test("few tokens of a large dictionary, which idle workers share, have the codes of one thread")
  func shared() async throws {
    let dictionary = SparseAutoencoder.random(
      dModel: 96, latents: 4096, rule: .topk(k: 12), seed: 3)
    let test = try TestServer(["large": dictionary]) { $0.workers = 3 }
    let client = try await test.client()
    for tokens in [1, 7, 16, 64] {
      let activations = Activations(tokens: tokens, dModel: 96, seed: UInt64(tokens))
      for granularity in [4096, 3001] {
        let response = try await client.encode(activations.request("large", granularity))
        #expect(try response.sparseCodes() == activations.codes(dictionary, granularity))
      }
    }
    var bad = Activations(tokens: 16, dModel: 96, seed: 1).values
    bad[5 * 96] = .infinity
    let request = EncodeRequest(
      model: "large",
      activations: PackedTensor(
        type: .float32, shape: [16, 96], data: SharedBytes(copying: bad)))
    let error = await #expect(throws: ServerError.self) { try await client.encode(request) }
    #expect(error?.code == .invalidArgument)
    #expect(error?.message.contains("token 5") == true)
  }

  @Test("many requests in flight, large and small, from several clients, are each answered right")
  func manyInFlight() async throws {
    let test = try TestServer(rules)
    let clients = [try await test.client(), try await test.client(), try await test.client()]
    let dictionary = try #require(rules["topk"])
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<300 {
        let client = clients[number % 3]
        group.addTask {
          let tokens = number % 10 == 0 ? 900 : number % 7
          let granularity = 1 + number * 37 % 160
          let activations = Activations(tokens: tokens, dModel: 24, seed: UInt64(number))
          let response = try await client.encode(activations.request("topk", granularity))
          #expect(try response.sparseCodes() == activations.codes(dictionary, granularity))
        }
      }
      try await group.waitForAll()
    }
  }

  @Test("a request that cannot be encoded fails alone, whatever shares its batch")
  func badCompany() async throws {
    let test = try TestServer(rules) { $0.workers = 1 }
    let socket = try test.socket()
    let dictionary = try #require(rules["topk"])
    let good = (1...60).map { Activations(tokens: $0 % 9, dModel: 24, seed: UInt64($0)) }
    var bad = good[4].values
    bad[3 * 24 + 7] = .nan
    // All at once, so that most wait while the worker is busy, and share batches.
    socket.send(
      (1...60).flatMap { id in
        var request = good[id - 1].request("topk", id % 3 == 0 ? 50 : 160)
        if id % 10 == 5 {
          request.activations = PackedTensor(
            type: .float32, shape: [5, 24], data: SharedBytes(copying: bad))
        }
        return Request(id: UInt64(id), call: .encode(request)).frameBytes
      })
    for _ in 1...60 {
      let response = try #require(try socket.receive())
      let id = Int(response.id)
      if id % 10 == 5 {
        #expect(
          response.error?.message == "encode: activations: token 3, dimension 7 is not finite")
      } else if case .encode(let encoded) = try response.result.get() {
        #expect(
          try encoded.sparseCodes()
            == good[id - 1].codes(dictionary, id % 3 == 0 ? 50 : 160), "request \(id)")
      }
    }
  }

  @Test("answers come back under their own ids, small ones before a large one sent first")
  func outOfOrder() async throws {
    let test = try TestServer([
      "m": .random(dModel: 64, latents: 4096, rule: .topk(k: 32), seed: 6)
    ])
    let socket = try test.socket()
    let large = Activations(tokens: 4000, dModel: 64, seed: 7).request("m")
    socket.send(Request(id: 1, call: .encode(large)))
    socket.send(Request(id: 2, call: .status))
    #expect(try socket.receive()?.id == 2)
    #expect(try socket.receive()?.id == 1)
  }

  @Test("a client that half-closes still gets its answers")
  func halfClose() async throws {
    let test = try TestServer(rules)
    let socket = try test.socket()
    for id in 1...20 {
      let activations = Activations(tokens: 50, dModel: 24, seed: UInt64(id))
      socket.send(Request(id: UInt64(id), call: .encode(activations.request("topk"))))
    }
    socket.endSending()
    var ids: Set<UInt64> = []
    while let response = try socket.receive() {
      #expect(response.error == nil)
      ids.insert(response.id)
    }
    #expect(ids == Set(1...20))
  }
}
