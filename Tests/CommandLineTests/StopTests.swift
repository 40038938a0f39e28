import Foundation
import GranuleClient
import GranuleDictionary
import GranuleRepository
import GranuleTensors
import GranuleTransport
import GranuleWire
import TestSupport
import Testing

@Suite("Stopping the server", .serialized)
struct StopTests {
  let folder: TemporaryFolder
  let repository: ModelRepository
  let dictionary = SparseAutoencoder.random(dModel: 32, latents: 1024, rule: .topk(k: 8), seed: 71)
  let seed = UInt64.random(in: 0 ... .max)

  init() throws {
    folder = try TemporaryFolder()
    repository = ModelRepository(path: "\(folder.path)/models")
    let files = "\(folder.path)/dictionary"
    try FileManager.default.createDirectory(atPath: files, withIntermediateDirectories: true)
    try dictionary.write(to: files)
    _ = try repository.publish(folder: files, name: "m")
  }

  var address: SocketAddress { .unix(path: "\(folder.path)/socket") }

  /// A server that answers; always at the same addresses, so that each finds what the one before
  /// left.
  func start(_ more: String...) throws -> CommandProcess {
    let server = try CommandProcess(
      [
        "serve", "--repository", repository.path, "--listen", "\(address)", "--admin-listen",
        "unix:\(folder.path)/admin", "--limit", "queue-wait-max=3600",
      ] + more)
    #expect(server.nextOutput().contains("serving"), "\(server.nextErrors())")
    return server
  }

  func request(tokens: Int, seed: UInt64, granularities: [UInt32] = []) -> (
    request: EncodeRequest, expected: SparseCodes
  ) {
    var generator = SeededGenerator(seed: seed)
    let values = generator.normals(tokens * 32)
    let codes = try? dictionary.encoded(values, granularity: 1024)
    let activations = PackedTensor(
      type: .float32, shape: [UInt32(tokens), 32], data: SharedBytes(copying: values))
    let request = EncodeRequest(
      model: "m", activations: activations, granularities: granularities, delta: true)
    return (request, codes ?? SparseCodes())
  }

  func isRight(_ response: EncodeResponse, _ expected: SparseCodes) -> Bool {
    response.codes?.rowOffsets.array(of: UInt32.self) == expected.rowOffsets
      && response.codes?.indices.array(of: UInt32.self) == expected.indices
      && response.codes?.values.array(of: Float.self) == expected.values
  }

  /// Asks what takes far more room than the system's buffers have, and waits until it is computed.
  func askWithoutReading() async throws -> SilentPeer {
    var (long, _) = request(tokens: 4000, seed: 2, granularities: (1...16).map { UInt32(64 * $0) })
    long.returnReconstruction = true
    let peer = try SilentPeer(asking: Request(id: 1, call: .encode(long)), at: address)
    let client = try await Client.connect(to: address)
    try await eventually("the request is computed") {
      try await client.status().computedRequests > 0
    }
    return peer
  }

  /// Sleeps for a time drawn at random.
  func wait(upTo seconds: Double, _ generator: inout SeededGenerator) {
    sleep(for: .seconds(Double.random(in: 0..<seconds, using: &generator)))
  }

  @Test("SIGTERM at any moment under load: what was admitted is answered, and the exit code is 0")
  func drain() async throws {
    var generator = SeededGenerator(seed: seed)
    let (plain, expected) = request(tokens: 40, seed: 1)
    let (staged, _) = request(tokens: 40, seed: 1, granularities: [64, 256, 1024])
    var answered = 0
    for _ in 0..<8 {
      let server = try start()
      var clients: [Client] = []
      for _ in 0..<3 { clients.append(try await Client.connect(to: address)) }
      let streams = clients.map { client in
        (0..<150).map { client.encodeStages($0 % 3 == 0 ? staged : plain) }
      }
      wait(upTo: 0.1, &generator)
      #expect(server.end(SIGTERM) == 0, "seed \(seed)")
      for stream in streams {
        // Requests are read in order: once one was not admitted, none after it was.
        var isOver = false
        for stages in stream {
          var last: EncodeResponse?
          do {
            for try await var stage in stages {
              if let before = last?.codes { try stage.completeCodes(with: before) }
              last = stage
            }
            #expect(!isOver, "seed \(seed)")
            #expect(last.map { isRight($0, expected) } == true, "seed \(seed)")
            answered += 1
          } catch let error as ClientError {
            guard case .connectionLost = error else {
              Issue.record("\(error), seed \(seed)")
              return
            }
            #expect(last == nil, "a request that had its first stage was admitted, seed \(seed)")
            isOver = true
          }
        }
      }
    }
    #expect(answered > 0, "seed \(seed)")
  }

  @Test("a second SIGTERM ends a server that drains at once")
  func secondSignal() async throws {
    let server = try start("--drain-timeout", "3600", "--limit", "stall=3600")
    let peer = try await askWithoutReading()
    kill(server.process.processIdentifier, SIGTERM)
    var log = ""
    while !log.contains("stopping") {
      let more = server.nextErrors()
      guard !more.isEmpty else { break }
      log += more
    }
    #expect(log.contains("stopping"))
    #expect(server.end(SIGTERM) == 128 + SIGTERM)
    withExtendedLifetime(peer) {}
  }

  @Test("what is not answered by the drain timeout is cut off, and the server exits with 0")
  func drainTimeout() async throws {
    let server = try start("--drain-timeout", "0.2", "--limit", "stall=3600")
    let peer = try await askWithoutReading()
    #expect(server.end(SIGTERM) == 0)
    var log = ""
    while true {
      let more = server.nextErrors()
      guard !more.isEmpty else { break }
      log += more
    }
    #expect(log.contains("were cut off"))
    withExtendedLifetime(peer) {}
  }

  @Test("SIGKILL at any moment under load: the repository is valid, and the next start serves")
  func killed() async throws {
    var generator = SeededGenerator(seed: seed)
    let (plain, expected) = request(tokens: 40, seed: 3)
    for _ in 0..<6 {
      let server = try start()
      let client = try await Client.connect(to: address)
      let streams = (0..<200).map { _ in client.encodeStages(plain) }
      wait(upTo: 0.1, &generator)
      _ = server.end(SIGKILL)
      for stages in streams {
        do {
          for try await stage in stages { #expect(isRight(stage, expected), "seed \(seed)") }
        } catch {
          #expect(error is ClientError, "seed \(seed)")
        }
      }
      for version in try repository.versions(of: "m") {
        #expect(throws: Never.self) { try repository.load("m", version: version) }
      }
      let next = try start()
      let response = try await Client.connect(to: address).encode(plain)
      #expect(isRight(response, expected), "seed \(seed)")
      #expect(next.end(SIGTERM) == 0, "seed \(seed)")
    }
  }
}

/// A client that asks once and reads no answer: a server that drains waits for it.
final class SilentPeer {
  private let descriptor: Int32

  init(asking request: Request, at address: SocketAddress) throws {
    guard case .unix(let path) = address else { preconditionFailure("not a Unix socket") }
    descriptor = try UnixSocket.connected(to: path, type: SOCK_STREAM)
    let frame = request.packed()
    var rest = frame.bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes {
        send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count < 0, errno == EINTR { continue }
      try #require(count > 0)
      rest = rest.dropFirst(count)
    }
  }

  deinit { close(descriptor) }
}
