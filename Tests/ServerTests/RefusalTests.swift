import GranuleClient
import GranuleDictionary
import GranuleServer
import GranuleWire
import TestSupport
import Testing

private let dictionary = SparseAutoencoder.random(
  dModel: 16, latents: 64, rule: .topk(k: 8), seed: 11)
private let dense = SparseAutoencoder.random(dModel: 16, latents: 64, rule: .relu, seed: 12) {
  $0.activationMean = nil
}

@Suite struct RefusalTests {
  @Test("what is no protocol gets one error with id 0 and an orderly close; the server lives on")
  func endings() async throws {
    let test = try TestServer(["m": dictionary]) {
      $0.limits.frameBytesMax = 1 << 20
      $0.limits.requestMemoryBytesMax = 2 << 20
    }
    let status = Request(id: 1, call: .status).frameBytes
    let pipelined = Activations(tokens: 500, dModel: 16, seed: 1).request("m")
    let encode = Request(id: 7, call: .encode(pipelined)).frameBytes
    let tinyFields = (0..<50_000).flatMap { _ -> [UInt8] in [120, 0] }
    let cases: [(String, [UInt8], ErrorCode, String)] = [
      (
        "too long", [0, 0x10, 0, 1], .resourceExhausted,
        "frame of 1048577 bytes: the limit is 1048576"
      ),
      (
        "HTTP", Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8), .resourceExhausted,
        "frame of 1195725856 bytes"
      ),
      (
        "not protobuf", [0, 0, 0, 3, 0xff, 0xff, 0xff], .invalidArgument,
        "is not a protobuf message"
      ),
      ("empty", [0, 0, 0, 0], .invalidArgument, "id: is 0"),
      ("id 0", Request(id: 0, call: .status).frameBytes, .invalidArgument, "id: is 0"),
      ("after good ones", status + [0xff, 0xff, 0xff, 0xff], .resourceExhausted, "frame of"),
      ("id in flight", encode + encode, .invalidArgument, "id: 7 is in flight already"),
      (
        "memory bomb",
        [0, 0x0f, 0x42, 0x40]
          + [UInt8](repeating: 120, count: 1_000_000).enumerated().map {
            $0.offset % 2 == 0 ? $0.element : 0
          }, .resourceExhausted, "more than 2097152 bytes of memory"
      ),
      (
        "memory bomb below the limit", [0, 0x01, 0x86, 0xa0] + tinyFields, .resourceExhausted,
        "more than 465536 bytes of memory"
      ),
    ]
    for (name, bytes, code, words) in cases {
      let socket = try test.socket()
      socket.send(bytes)
      var last: Response?
      while let response = try socket.receive() { last = response }
      #expect(last?.id == 0, "\(name)")
      #expect(last?.last == true, "\(name)")
      #expect(last?.error?.code == code, "\(name)")
      #expect(
        last?.error?.message.contains(words) == true, "\(name): \(last?.error?.message ?? "")")
      try await test.expectAlive("\(name)")
    }
  }

  @Test("a wrong request in a good frame gets an error with its id, and the connection stays")
  func wrongRequests() async throws {
    let test = try TestServer(["m": dictionary, "dense": dense]) {
      $0.limits.frameBytesMax = 1 << 20
      $0.limits.engine.stagesMax = 4
    }
    let good = Activations(tokens: 4, dModel: 16, seed: 2)
    func change(_ edit: (inout EncodeRequest) -> Void) -> Call {
      var request = good.request("m")
      edit(&request)
      return .encode(request)
    }
    func with(_ value: Float, at position: Int) -> Call {
      var values = Activations(tokens: 600, dModel: 16, seed: 3).values
      values[position] = value
      return change {
        $0.activations = PackedTensor(
          type: .float32, shape: [600, 16], data: SharedBytes(copying: values))
      }
    }
    func decode(_ offsets: [UInt32], _ indices: [UInt32]) -> Call {
      .decode(
        DecodeRequest(
          model: "m",
          codes: PackedCodes(
            rowOffsets: offsets, indices: indices, values: indices.map { _ in 1 })))
    }
    let cases: [(Call, ErrorCode, String)] = [
      (
        change { $0.model = "other" }, .notFound,
        "encode.model: there is no model other; the repository has dense, m"
      ),
      (change { $0.model = "../m" }, .invalidArgument, "encode.model: must be"),
      (change { $0.version = 9 }, .notFound, "encode.version: 9 of m is not resident; resident: 1"),
      (
        change { $0.activations.shape = [16, 4] }, .invalidArgument, "d_model is 4; model m has 16"
      ),
      (
        change { $0.activations.shape = [5, 16] }, .invalidArgument,
        "encode.activations.data: has 256 bytes"
      ),
      (change { $0.granularities = [65] }, .invalidArgument, "65 is above the model's 64 latents"),
      (change { $0.granularities = [0] }, .invalidArgument, "encode.granularities: 0 after 0"),
      (
        change { $0.granularities = [60, 70] }, .invalidArgument,
        "70 is above the model's 64 latents"
      ),
      (
        change { $0.granularities = Array(1...5) }, .resourceExhausted,
        "encode.granularities: has 5, the limit is 4"
      ),
      (change { $0.granularities = [8, 8] }, .invalidArgument, "encode.granularities: 8 after 8"),
      (
        change {
          $0.granularities = [8, 16]; $0.k = 9
        }, .invalidArgument, "encode.k: is 9, above the granularity, 8"
      ),
      (
        change {
          $0.granularities = [8, 16]; $0.minGranularity = 9
        }, .invalidArgument, "encode.min_granularity: is 9"
      ),
      (
        change {
          $0.model = "dense"; $0.targetFVU = 0.5
        }, .failedPrecondition, "encode.target_fvu: model dense stores no activation mean"
      ),
      (change { $0.targetFVU = .nan }, .invalidArgument, "encode.target_fvu"),
      (change { $0.k = 65 }, .invalidArgument, "encode.k: is 65, above the granularity, 64"),
      (
        change {
          $0.model = "dense"; $0.k = 2
        }, .invalidArgument, "selection rule, relu, has none"
      ),
      (change { $0.minGranularity = 65 }, .invalidArgument, "encode.min_granularity"),
      (with(.nan, at: 599 * 16 + 3), .invalidArgument, "token 599, dimension 3 is not finite"),
      (with(-.infinity, at: 0), .invalidArgument, "token 0, dimension 0 is not finite"),
      (with(1e38, at: 300 * 16), .invalidArgument, "token 300"),
      (decode([0, 1], [64]), .invalidArgument, "decode.codes.indices: token 0 names latent 64"),
      (decode([0, 2], [3, 3]), .invalidArgument, "decode.codes.indices"),
      (decode([1, 1], [3]), .invalidArgument, "decode.codes.row_offsets"),
      (.loadModel(name: "m", version: 0, beside: false), .permissionDenied, "admin address"),
      (.unloadModel(name: "m", version: 0), .permissionDenied, "admin address"),
      (.resizeModel(name: "m", granularity: 1), .permissionDenied, "admin address"),
    ]
    let socket = try test.socket()
    for (index, (call, code, words)) in cases.enumerated() {
      socket.send(Request(id: UInt64(index + 1), call: call))
      let response = try #require(try socket.receive())
      #expect(response.id == UInt64(index + 1))
      #expect(response.last)
      #expect(response.error?.code == code, "\(response.error?.message ?? "answered"): \(words)")
      #expect(
        response.error?.message.contains(words) == true, "\(response.error?.message ?? "answered")")
    }
    socket.send(frame: [8, 99, 0xf2, 0x01, 0])  // id 99, body 30
    #expect(try socket.receive()?.error?.code == .unimplemented)
    socket.send(Request(id: 100, call: .encode(good.request("m"))))
    #expect(try socket.receive()?.error == nil)
  }

  @Test("a response that could be longer than a frame is refused before any work")
  func largeResponse() async throws {
    let test = try TestServer(["dense": dense]) { $0.limits.frameBytesMax = 1 << 20 }
    let client = try await test.client()
    // 4000 tokens of 16 half-precision numbers fit a frame; 64 latents for each do not.
    let activations = PackedTensor(
      type: .float16, shape: [4000, 16],
      data: SharedBytes(copying: [UInt16](repeating: 0x3c00, count: 64_000)))
    var request = EncodeRequest(model: "dense", activations: activations)
    let error = await #expect(throws: ServerError.self) { try await client.encode(request) }
    #expect(error?.code == .resourceExhausted)
    #expect(error?.message.contains("the limit is 1048576") == true)
    request.omitCodes = true
    #expect(try await client.encode(request).squaredErrors.count == 16_000)
  }

  @Test("where fewer latents have a larger k, that decides how long a response could be")
  func fallingK() async throws {
    let falling = SparseAutoencoder.random(dModel: 16, latents: 64, rule: .topk(k: 1), seed: 13) {
      $0.granularities = [Granularity(latents: 8, k: 8), Granularity(latents: 64, k: 1)]
    }
    let test = try TestServer(["m": falling]) { $0.limits.frameBytesMax = 160 << 10 }
    let client = try await test.client()
    let activations = PackedTensor(
      type: .float16, shape: [4000, 16],
      data: SharedBytes(copying: [UInt16](repeating: 0x3c00, count: 64_000)))
    var request = EncodeRequest(model: "m", activations: activations, granularities: [64])
    #expect(try await client.encode(request).k == 1)
    request.granularities = [8, 64]
    let stage = await #expect(throws: ServerError.self) { try await client.encode(request) }
    #expect(stage?.message.contains("the response could take") == true)
    request.granularities = [64]
    request.minGranularity = 8
    let fallback = await #expect(throws: ServerError.self) { try await client.encode(request) }
    #expect(fallback?.message.contains("the response could take") == true)
  }

  @Test("clients that vanish in the middle of a frame, or of an answer, cost nobody anything")
  func vanishing() async throws {
    let test = try TestServer(["m": dictionary])
    let frame = Request(
      id: 1, call: .encode(Activations(tokens: 2000, dModel: 16, seed: 4).request("m"))
    ).frameBytes
    for count in [1, 3, 4, 5, 1000, frame.count - 1, frame.count] {
      let socket = try test.socket()
      socket.send(Array(frame.prefix(count)))
    }
    let client = try await test.client()
    try await eventually("connections that vanished are forgotten") {
      try await client.status().connections == 1
    }
    #expect(
      try await client.encode(Activations(tokens: 1, dModel: 16, seed: 5).request("m")).k == 8)
  }
}
