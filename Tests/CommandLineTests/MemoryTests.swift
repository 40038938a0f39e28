import Foundation
import GranuleClient
import GranuleDictionary
import GranuleRepository
import GranuleTensors
import GranuleTransport
import GranuleWire
import TestSupport
import Testing

/// A server whose address space is bounded while it works: memory that it asks for is refused.
@Suite("A server without memory", .serialized)
struct MemoryTests {
  let folder: TemporaryFolder
  let repository: ModelRepository
  let dictionary = SparseAutoencoder.random(dModel: 32, latents: 256, rule: .topk(k: 4), seed: 5)

  init() throws {
    folder = try TemporaryFolder()
    repository = ModelRepository(path: "\(folder.path)/models")
    try publish(dictionary, "m")
  }

  func publish(_ dictionary: SparseAutoencoder, _ name: String) throws {
    let files = "\(folder.path)/\(name)"
    try FileManager.default.createDirectory(atPath: files, withIntermediateDirectories: true)
    try dictionary.write(to: files)
    _ = try repository.publish(folder: files, name: name)
  }

  func start() throws -> CommandProcess {
    let server = try CommandProcess([
      "serve", "--repository", repository.path, "--listen", "unix:\(folder.path)/socket",
      "--admin-listen", "unix:\(folder.path)/admin",
    ])
    #expect(server.nextOutput().contains("serving"), "\(server.nextErrors())")
    return server
  }

  /// Limits a process to `bytesMore` bytes of address space beyond its present ones; nil lifts the limit.
  func bound(_ process: Process, bytesMore: Int?) throws {
    var limit = "unlimited"
    if let bytesMore {
      let pages = try String(
        contentsOfFile: "/proc/\(process.processIdentifier)/statm", encoding: .utf8)
      let used = try #require(pages.split(separator: " ").first.flatMap { Int($0) }) * 4096
      limit = String(used + bytesMore)
    }
    let change = Process()
    change.executableURL = URL(fileURLWithPath: "/usr/bin/prlimit")
    change.arguments = ["--pid", "\(process.processIdentifier)", "--as=\(limit):unlimited"]
    try change.run()
    change.waitUntilExit()
    try #require(change.terminationStatus == 0)
  }

  func request(tokens: Int) throws -> (request: EncodeRequest, expected: SparseCodes) {
    var generator = SeededGenerator(seed: UInt64(tokens))
    let some = generator.normals(64 * 32)
    let values = (0..<tokens * 32).map { some[$0 % some.count] }
    let expected = try dictionary.encoded(values, granularity: 256)
    let activations = PackedTensor(
      type: .float32, shape: [UInt32(tokens), 32], data: SharedBytes(copying: values))
    return (EncodeRequest(model: "m", activations: activations), expected)
  }

  /// What became of a request; a wrong answer is an issue.
  func outcome(
    _ client: Client, _ asked: (request: EncodeRequest, expected: SparseCodes)
  ) async -> ErrorCode? {
    do {
      let codes = try #require(try await client.encode(asked.request).codes)
      let same =
        codes.rowOffsets.array(of: UInt32.self) == asked.expected.rowOffsets
        && codes.indices.array(of: UInt32.self) == asked.expected.indices
        && codes.values.array(of: Float.self) == asked.expected.values
      #expect(same)
      return nil
    } catch {
      return (error as? ServerError)?.code ?? .unavailable
    }
  }

  @Test("refuses what is large, answers what is small, and goes on once it has memory again")
  func requests() async throws {
    let server = try start()
    let address = SocketAddress.unix(path: "\(folder.path)/socket")
    let small = try request(tokens: 8)
    let large = try request(tokens: 1 << 17)  // 16 MiB
    let client = try await Client.connect(to: address)
    #expect(await outcome(client, large) == nil)
    var refused = 0
    for megabytes in [2, 6, 12, 20, 30, 40, 60] {
      try bound(server.process, bytesMore: megabytes << 20)
      #expect(await outcome(client, small) == nil, "\(megabytes) MiB more")
      let clients = [
        try await Client.connect(to: address), try await Client.connect(to: address),
        try await Client.connect(to: address),
      ]
      await withTaskGroup(of: ErrorCode?.self) { group in
        for client in clients { group.addTask { await outcome(client, large) } }
        for await code in group where code != nil {
          refused += 1
          #expect(code == .resourceExhausted || code == .unavailable, "\(megabytes) MiB more")
        }
      }
      try #require(server.process.isRunning, "\(megabytes) MiB more")
    }
    #expect(refused > 0)
    try bound(server.process, bytesMore: nil)
    let again = try await Client.connect(to: address)
    #expect(await outcome(again, large) == nil)
    #expect(server.end(SIGTERM) == 0)
  }

  @Test("reports a dictionary that does not fit, and serves on")
  func dictionaries() async throws {
    let server = try start()
    let client = try await Client.connect(to: .unix(path: "\(folder.path)/socket"))
    let admin = try await Client.connect(to: .unix(path: "\(folder.path)/admin"))
    let small = try request(tokens: 8)
    #expect(await outcome(client, small) == nil)
    // Its file fits, what is made of it does not.
    try publish(.random(dModel: 1024, latents: 4096, rule: .relu, seed: 6), "large")
    try bound(server.process, bytesMore: 50 << 20)
    await #expect { try await admin.loadModel("large", version: 1) } throws: {
      "\($0)".contains("memory")
    }
    #expect(await outcome(client, small) == nil)
    try bound(server.process, bytesMore: nil)
    _ = try await admin.loadModel("large", version: 1)
    #expect(server.end(SIGTERM) == 0)
  }
}
