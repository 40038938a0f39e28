import Glibc
import GranuleClient
import GranuleDictionary
import GranuleEncoder
import GranuleRepository
import GranuleServer
import GranuleTensors
import GranuleTransport
import GranuleWire
import Logging
import TestSupport
import Testing

private let dictionary = SparseAutoencoder.random(
  dModel: 16, latents: 64, rule: .topk(k: 8), seed: 7)

/// A real server of one dictionary, on a Unix socket of its own.
private final class Fixture {
  let folder: TemporaryFolder
  let server: RunningServer

  init() throws {
    folder = try TemporaryFolder()
    let repository = ModelRepository(path: folder.path + "/models")
    let files = folder.path + "/dictionary"
    mkdir(repository.path, 0o755)
    mkdir(files, 0o755)
    try dictionary.write(to: files)
    _ = try repository.publish(folder: files, name: "m")
    var options = ServerOptions(
      repository: repository.path, listen: .unix(path: folder.path + "/socket"))
    options.workers = 1
    options.logger.logLevel = .critical
    options.limits.engine.shedAbove = .seconds(3600)
    options.limits.engine.queueWaitMax = .seconds(3600)
    server = try Server.start(options)
  }

  deinit { server.stop() }
}

private func request(tokens: Int, seed: UInt64 = 1) -> (request: EncodeRequest, values: [Float]) {
  var generator = SeededGenerator(seed: seed)
  let values = generator.normals(tokens * 16)
  let activations = PackedTensor(
    type: .float32, shape: [UInt32(tokens), 16], data: SharedBytes(copying: values))
  return (EncodeRequest(model: "m", activations: activations), values)
}

@Suite("A client and a real server") struct ClientTests {
  @Test("codes arrive as the dictionary makes them, whole even if stages carried changes")
  func encode() async throws {
    let fixture = try Fixture()
    let client = try await Client.connect(to: fixture.server.address)
    var (request, values) = request(tokens: 20)
    request.granularities = [16, 64]
    request.delta = true
    let response = try await client.encode(request)
    let expected = try dictionary.encoded(values, granularity: 64)
    let codes = try #require(response.codes)
    #expect(response.removed == nil)
    #expect(codes.rowOffsets.array(of: UInt32.self) == expected.rowOffsets)
    #expect(codes.indices.array(of: UInt32.self) == expected.indices)
    #expect(codes.values.array(of: Float.self) == expected.values)
    let expectedRows = try SparseEncoder(dictionary).decode(expected)
    let decoded = try await client.decode(DecodeRequest(model: "m", codes: codes))
    #expect(decoded.reconstruction.data.array(of: Float.self) == expectedRows)
  }

  @Test("refusals are thrown with the server's code and words; the connection stays")
  func refusals() async throws {
    let fixture = try Fixture()
    let client = try await Client.connect(to: fixture.server.address)
    var unknown = request(tokens: 1).request
    unknown.model = "none"
    let error = await #expect(throws: ServerError.self) { try await client.encode(unknown) }
    #expect(error?.code == .notFound)
    await #expect(throws: ServerError.self) { try await client.unloadModel("m") }
    #expect(try await client.status().ready)
    let admin = try await Client.connect(to: fixture.server.adminAddress)
    #expect(try await admin.resizeModel("m", granularity: 8).versions.first?.residentLatents == 8)
    #expect(try await client.listModels().map(\.name) == ["m"])
  }

  @Test("many tasks share a connection, and each gets its own answer")
  func shared() async throws {
    let fixture = try Fixture()
    let client = try await Client.connect(to: fixture.server.address)
    try await withThrowingTaskGroup(of: (Int, Int).self) { group in
      for tokens in 0..<60 {
        group.addTask {
          (tokens, try await client.encode(request(tokens: tokens).request).squaredErrors.count)
        }
      }
      for try await (tokens, bytes) in group { #expect(bytes == 4 * tokens) }
    }
  }

  @Test("a consumer that stops early cancels its stages, and the client goes on")
  func stopsEarly() async throws {
    let fixture = try Fixture()
    let client = try await Client.connect(to: fixture.server.address)
    var (request, _) = request(tokens: 4000)
    request.granularities = (1...64).map { $0 }
    for try await stage in client.encodeStages(request) {
      #expect(stage.granularity == 1)
      break
    }
    #expect(try await client.status().ready)
  }

  @Test("an answer that takes too long is given up, by this client's own clock")
  func timeout() async throws {
    let folder = try TemporaryFolder()
    // It accepts connections and says nothing.
    let path = folder.path + "/silent"
    let silent = try UnixSocket.bound(to: path, type: SOCK_STREAM)
    defer { close(silent) }
    try #require(listen(silent, 1) == 0)
    let client = try await Client.connect(to: .unix(path: path))
    let error = await #expect(throws: ClientError.self) {
      try await client.status(timeout: .milliseconds(20))
    }
    #expect(error == .timedOut(address: .unix(path: path), limit: .milliseconds(20)))
  }

  @Test("a closed client, a server that has gone and an address without one each say so")
  func ends() async throws {
    let fixture = try Fixture()
    let address = fixture.server.address
    let closed = try await Client.connect(to: address)
    closed.close()
    await #expect(throws: ClientError.closed(address: address)) { try await closed.status() }
    let left = try await Client.connect(to: address)
    fixture.server.stop()
    let lost = await #expect(throws: ClientError.self) { try await left.status() }
    guard case .connectionLost? = lost else {
      Issue.record("\(String(describing: lost))")
      return
    }
    let refused = await #expect(throws: ClientError.self) { try await Client.connect(to: address) }
    guard case .connectFailed? = refused else {
      Issue.record("\(String(describing: refused))")
      return
    }
  }

  @Test("the process keeps its own handling of SIGPIPE, whatever client and server write to")
  func processIsLeftAlone() async throws {
    func handlesBrokenPipe() -> Bool {
      var action = sigaction()
      sigaction(SIGPIPE, nil, &action)
      return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) != 0
    }
    let before = handlesBrokenPipe()
    let fixture = try Fixture()
    for _ in 0..<20 {
      let client = try await Client.connect(to: fixture.server.address)
      let (request, _) = request(tokens: 2000)
      async let answer = client.encode(request)
      client.close()
      _ = try? await answer
    }
    let client = try await Client.connect(to: fixture.server.address)
    #expect(try await client.status().ready)
    #expect(handlesBrokenPipe() == before)
  }
}
