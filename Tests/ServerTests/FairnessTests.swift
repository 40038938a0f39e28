import GranuleClient
import GranuleDictionary
import GranuleServer
import GranuleTransport
import GranuleWire
import TestSupport
import Testing

/// A dictionary that takes milliseconds for 100 tokens.
private let slow = SparseAutoencoder.random(
  dModel: 64, latents: 8192, rule: .topk(k: 16), seed: 71)

@Suite("What one client takes leaves the others room") struct FairnessTests {
  /// Rounds of requests within which a server must have refused one.
  private static let roundsMax = 30

  @Test("a connection that floods the queue is refused, one that asks now and then is not")
  func queue() async throws {
    let test = try TestServer(["m": slow]) {
      $0.workers = 1
      $0.limits.engine.queueTokensMax = 2000
      $0.limits.engine.batchTokensMax = 128
    }
    let trickle = try await test.client()
    let flood = try test.socket()
    var many = Activations(tokens: 100, dModel: 64, seed: 1).request("m")
    many.omitCodes = true
    let few = Activations(tokens: 1, dModel: 64, seed: 2).request("m")
    var refused = 0
    var sent = 0
    for round in 0..<Self.roundsMax where refused == 0 || round < 4 {
      for _ in 0..<100 {
        sent += 1
        flood.send(Request(id: UInt64(sent), call: .encode(many)))
      }
      for _ in 0..<5 { #expect(try await trickle.encode(few).version == 1) }
      for _ in 0..<100 {
        let error = try #require(try flood.receive()).error
        #expect(error == nil || error?.code == .unavailable)
        if let error {
          refused += 1
          #expect(error.retryAfterMilliseconds > 0)
        }
      }
    }
    #expect(refused > 0 && refused < sent)
  }

  @Test("who waits behind others for longer than is allowed is refused, who does not is not")
  func wait() async throws {
    let test = try TestServer(["m": slow]) {
      $0.workers = 1
      $0.limits.engine.batchTokensMax = 128
      $0.limits.engine.queueWaitMax = .milliseconds(400)
      $0.limits.engine.shedAbove = .milliseconds(100)
    }
    let trickle = try await test.client()
    let few = Activations(tokens: 1, dModel: 64, seed: 2).request("m")
    let flood = try test.socket()
    var many = Activations(tokens: 128, dModel: 64, seed: 1).request("m")
    many.omitCodes = true
    var (sent, refused) = (0, 0)
    // Until batches were measured, and are known to take longer together than is allowed.
    for _ in 0..<Self.roundsMax where refused == 0 {
      for _ in 0..<1000 {
        sent += 1
        flood.send(Request(id: UInt64(sent), call: .encode(many)))
      }
      #expect(try await trickle.encode(few).version == 1)
      for _ in 0..<1000 {
        guard let error = try #require(try flood.receive()).error else { continue }
        refused += 1
        #expect(error.code == .unavailable)
        #expect(error.retryAfterMilliseconds > 0)
        #expect(error.message.contains("the queue takes"), "\(error.message)")
      }
    }
    #expect(refused > 0 && refused < sent)
  }

  @Test("a client that does not read its answers leaves memory for the others' requests")
  func answers() async throws {
    let dictionary = SparseAutoencoder.random(dModel: 64, latents: 64, rule: .relu, seed: 72)
    let test = try TestServer(["m": dictionary]) {
      $0.limits.frameBytesMax = 4 << 20
      $0.limits.engine.admittedBytesMax = 16 << 20
    }
    let hog = try test.socket()
    var large = Activations(tokens: 4000, dModel: 64, seed: 1).request("m")
    large.returnReconstruction = true
    for id in 1...30 { hog.send(Request(id: UInt64(id), call: .encode(large))) }
    let client = try await test.client()
    try await eventually("all that was let in is computed") {
      let status = try await client.status()
      return status.refusedRequests > 0 && status.queuedRequests == 0
    }
    let small = Activations(tokens: 1000, dModel: 64, seed: 2).request("m")
    for _ in 0..<20 { #expect(try await client.encode(small).version == 1) }
  }

  @Test("where unfinished frames take too much memory, those that hold most are ended")
  func frames() async throws {
    let test = try TestServer(["m": slow]) {
      $0.httpListen = .tcp(host: "127.0.0.1", port: 0)
      $0.limits.frameBytesMax = 4 << 20
      $0.limits.receiveBytesMax = 9 << 20
      $0.limits.receiveBytesFree = 256 << 10
    }
    let part = [UInt8](repeating: 0, count: 3 << 20)
    let hogs = try (0..<2).map { _ in try test.socket() }
    for hog in hogs { hog.send([0, 0x3f, 0xff, 0xff] + part) }
    try await eventually("they hold most of it") {
      try test.metrics()["granule_receive_buffer_bytes"] ?? 0 > 7 * 1_048_576
    }
    let large = Activations(tokens: 8000, dModel: 64, seed: 3).request("m")
    let frame = Request(id: 1, call: .encode(large)).frameBytes
    let socket = try test.socket()
    socket.send(Array(frame.dropLast()))
    try await eventually("one of them is ended") {
      try test.metrics()["granule_connections_aborted_total{reason=\"receive_memory\"}"] == 1
    }
    socket.send([frame[frame.count - 1]])
    let response = try #require(try socket.receive())
    #expect(response.error == nil)
    withExtendedLifetime(hogs) {}
  }

  @Test("frames that were only announced end nobody, and are answered once they have arrived")
  func announcements() async throws {
    let dictionary = SparseAutoencoder.random(dModel: 64, latents: 64, rule: .relu, seed: 73)
    let test = try TestServer(["m": dictionary]) {
      $0.httpListen = .tcp(host: "127.0.0.1", port: 0)
      $0.limits.frameBytesMax = 1 << 20
      $0.limits.receiveBytesMax = 1 << 20
      $0.limits.receiveBytesFree = 64 << 10
    }
    var request = Activations(tokens: 3500, dModel: 64, seed: 4).request("m")
    request.omitCodes = true
    let frame = Request(id: 1, call: .encode(request)).frameBytes
    let sockets = try (0..<4).map { _ in try test.socket() }
    for socket in sockets { socket.send(Array(frame[..<5])) }
    try await eventually("all lengths have arrived") {
      try test.metrics()["granule_receive_buffer_bytes"] ?? 0 >= 4 * 16_384
    }
    // With the next reading each frame is given its place: together more than the limit.
    for socket in sockets { socket.send([frame[5]]) }
    for socket in sockets {
      socket.send(Array(frame[6...]))
      let response = try #require(try socket.receive())
      #expect(response.error == nil, "\(response.error?.message ?? "")")
    }
    let metrics = try test.metrics()
    #expect(metrics["granule_connections_aborted_total{reason=\"receive_memory\"}"] == 0)
  }

  @Test("frames beyond a connection's turn are answered in later turns, however they arrive")
  func turns() throws {
    let test = try TestServer { $0.limits.framesPerTurnMax = 3 }
    let socket = try test.socket()
    for id in 1...10 as ClosedRange<UInt64> {
      socket.send(Request(id: id, call: .status))
      #expect(try socket.receive()?.id == id)
    }
    socket.send((11...100).flatMap { Request(id: $0, call: .status).frameBytes })
    socket.endSending()
    for id in 11...100 as ClosedRange<UInt64> { #expect(try socket.receive()?.id == id) }
    #expect(try socket.receive()?.id == nil)
  }

  @Test("connections to the address of administration are counted by themselves")
  func administration() async throws {
    let test = try TestServer(["m": slow]) {
      $0.adminListen = .tcp(host: "127.0.0.1", port: 0)
      $0.limits.connectionsMax = 1
      $0.limits.adminConnectionsMax = 2
    }
    let admins = try (0..<2).map { _ in try RawSocket(test.server.adminAddress) }
    for admin in admins {
      admin.send(Request(id: 1, call: .status))
      #expect(try admin.receive()?.id == 1)
    }
    let third = try RawSocket(test.server.adminAddress)
    #expect(try third.receive()?.error?.message.contains("the limit is 2") == true)
    #expect(try await test.client().status().ready)
    withExtendedLifetime(admins) {}
  }
}
