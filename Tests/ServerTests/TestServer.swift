import Glibc
import GranuleClient
import GranuleDictionary
import GranuleTensors
import GranuleRepository
import GranuleServer
import GranuleTransport
import GranuleWire
import Logging
import TestSupport
import Testing

/// A repository in a folder of its own and a server of it on a free port, both gone at the end of
/// the test.
final class TestServer {
  let folder: TemporaryFolder
  let repository: ModelRepository
  let server: RunningServer

  /// Publishes `dictionaries` by name, then starts.
  init(
    _ dictionaries: [String: SparseAutoencoder] = [:],
    configure: (inout ServerOptions) -> Void = { _ in }
  ) throws {
    folder = try TemporaryFolder()
    repository = ModelRepository(path: folder.path + "/models")
    mkdir(repository.path, 0o755)
    for (name, dictionary) in dictionaries {
      _ = try Self.publish(dictionary, name, in: repository, folder)
    }
    var options = ServerOptions(
      repository: repository.path, listen: .tcp(host: "127.0.0.1", port: 0))
    options.workers = 2
    options.logger.logLevel = .critical
    // Tests publish when they please; none waits for long.
    options.pollInterval = .milliseconds(10)
    // Where all tests run at once a task may wait for its turn for a minute: no limit of time ends
    // what a test is about, but where it says so.
    options.limits.stall = .seconds(3600)
    options.limits.httpIdle = .seconds(3600)
    options.limits.engine.queueWaitMax = .seconds(3600)
    options.limits.engine.shedAbove = .seconds(3600)
    options.limits.engine.loadRetryMin = .seconds(3600)
    options.limits.engine.loadRetryMax = .seconds(3600)
    configure(&options)
    server = try Server.start(options)
  }

  deinit { server.stop() }

  @discardableResult
  func publish(_ dictionary: SparseAutoencoder, _ name: String) throws -> UInt64 {
    try Self.publish(dictionary, name, in: repository, folder)
  }

  private static func publish(
    _ dictionary: SparseAutoencoder, _ name: String, in repository: ModelRepository,
    _ folder: TemporaryFolder
  ) throws -> UInt64 {
    let files = "\(folder.path)/\(name)-\(UInt64.random(in: 0 ... .max))"
    mkdir(files, 0o755)
    try dictionary.write(to: files)
    return try repository.publish(folder: files, name: name)
  }

  func client() async throws -> Client { try await Client.connect(to: server.address) }
  func admin() async throws -> Client { try await Client.connect(to: server.adminAddress) }
  func socket() throws -> RawSocket { try RawSocket(server.address) }

  /// A question to the server that only a living server answers.
  func expectAlive(_ comment: Comment? = nil) async throws {
    let status = try await client().status(timeout: .seconds(600))
    #expect(status.ready, comment)
  }
}

/// A blocking TCP connection, to say what no client of ours would.
final class RawSocket {
  private let descriptor: Int32
  private var decoder = FrameDecoder()

  init(_ address: SocketAddress) throws {
    guard case .tcp(_, let port) = address else { throw ServerError(.internal, "not TCP") }
    descriptor = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = port.bigEndian
    name.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let code = withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    try #require(code == 0)
    // A test that waits for what never comes fails instead of hanging.
    var limit = timeval(tv_sec: 600, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(
      descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  func send(_ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }

  func send(_ request: Request) { send(request.frameBytes) }

  /// Sends a payload behind its length.
  func send(frame payload: [UInt8]) {
    let length = UInt32(payload.count)
    send((0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * $0)) } + payload)
  }

  /// No more will be sent.
  func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

  /// Everything until the server closes.
  func receiveAll() throws -> [UInt8] {
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = recv(descriptor, &part, part.count, 0)
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else {
        throw ServerError(.internal, "recv: \(String(cString: strerror(errno)))")
      }
      if count == 0 { return bytes }
      bytes += part[..<count]
    }
  }

  /// The next response; nil once the server has closed.
  func receive() throws -> Response? {
    while true {
      if let payload = try decoder.nextFrame() {
        return try Response(unpacking: payload, memoryBytesMax: 256 << 20)
      }
      let space = decoder.space()
      let count = recv(descriptor, space.baseAddress, space.count, 0)
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else {
        throw ServerError(.internal, "recv: \(String(cString: strerror(errno)))")
      }
      if count == 0 { return nil }
      decoder.received(count)
    }
  }
}

extension Request {
  var frameBytes: [UInt8] {
    let frame = packed()
    return withExtendedLifetime(frame) { Array(frame.bytes) }
  }
}

extension Response {
  /// The error that this response is, or nil.
  var error: ServerError? { if case .failure(let error) = result { error } else { nil } }
}

/// Activations from a seed, and how they go over the wire.
struct Activations {
  let tokens: Int
  let dModel: Int
  let values: [Float]

  init(tokens: Int, dModel: Int, seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    self.tokens = tokens
    self.dModel = dModel
    values = generator.normals(tokens * dModel)
  }

  var packed: PackedTensor {
    PackedTensor(
      type: .float32, shape: [UInt32(tokens), UInt32(dModel)], data: SharedBytes(copying: values))
  }

  func request(_ model: String, _ granularity: Int = 0, k: Int = 0) -> EncodeRequest {
    EncodeRequest(
      model: model, activations: packed,
      granularities: granularity == 0 ? [] : [UInt32(granularity)], k: UInt32(k))
  }

  /// What a dictionary makes of them in this process.
  func codes(_ dictionary: SparseAutoencoder, _ granularity: Int = 0, k: Int? = nil) throws
    -> SparseCodes
  {
    try dictionary.encoded(values, granularity: granularity == 0 ? nil : granularity, k: k)
  }
}

extension EncodeResponse {
  /// The codes as values.
  func sparseCodes() throws -> SparseCodes {
    let codes = try #require(codes)
    return try codes.sparseCodes()
  }
}
