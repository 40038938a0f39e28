import GranuleClient
import GranuleDictionary
import GranuleServer
import GranuleTransport
import GranuleWire
import TestSupport
import Testing

private let slow = SparseAutoencoder.random(
  dModel: 64, latents: 4096, rule: .topk(k: 32), seed: 21)

@Suite struct LoadTests {
  @Test("beyond the queue's bound requests are told to come back; every one is answered")
  func boundedQueue() async throws {
    let test = try TestServer(["m": slow]) {
      $0.workers = 1
      $0.limits.engine.queueTokensMax = 600
      $0.limits.engine.retryAfterMilliseconds = 3_600_000
    }
    let activations = Activations(tokens: 200, dModel: 64, seed: 1)
    let socket = try test.socket()
    socket.send(
      (1...50).flatMap { Request(id: $0, call: .encode(activations.request("m"))).frameBytes })
    var answered: Set<UInt64> = []
    var refused = 0
    for _ in 1...50 {
      let response = try #require(try socket.receive())
      #expect(answered.insert(response.id).inserted)
      if let error = response.error {
        #expect(error.code == .unavailable)
        #expect(error.retryAfterMilliseconds == 3_600_000)
        refused += 1
      }
    }
    #expect(answered == Set(1...50))
    #expect(refused > 0)
    #expect(refused < 50)
  }

  @Test("where the queue takes too long requests are told when to come back; a first one has room")
  func boundedWait() async throws {
    let test = try TestServer(["m": slow]) {
      $0.workers = 1
      $0.limits.engine.queueWaitMax = .milliseconds(1)
      $0.limits.engine.shedAbove = .milliseconds(1)
      $0.limits.engine.shedBelow = .zero
      $0.limits.engine.retryAfterMilliseconds = 1
    }
    let request = Activations(tokens: 600, dModel: 64, seed: 1).request("m")
    let socket = try test.socket()
    // Until a batch has been computed nothing is known.
    socket.send(Request(id: 1, call: .encode(request)))
    #expect(try socket.receive()?.error == nil)
    socket.send((2...21).flatMap { Request(id: $0, call: .encode(request)).frameBytes })
    var refused = 0
    for _ in 2...21 {
      guard let error = try #require(try socket.receive()).error else { continue }
      #expect(error.code == .unavailable)
      #expect(error.message.contains("the limit is 0.001 seconds"))
      #expect(error.retryAfterMilliseconds > 1)
      refused += 1
    }
    #expect(refused > 0)
    #expect(refused < 20)
    #expect(try await test.client().status().refusedRequests == UInt64(refused))
  }

  @Test("a request that waits too long, and one that is cancelled, end so; others are answered")
  func deadlineAndCancel() async throws {
    let test = try TestServer(["m": slow]) { $0.workers = 1 }
    let socket = try test.socket()
    let long = Activations(tokens: 6000, dModel: 64, seed: 2).request("m")
    let short = Activations(tokens: 1, dModel: 64, seed: 3).request("m")
    socket.send(
      [
        Request(id: 1, call: .encode(long)),
        Request(id: 2, timeoutMilliseconds: 1, call: .encode(short)),
        Request(id: 3, call: .encode(short)),
        Request(id: 4, body: .cancel(requestID: 3)),
        Request(id: 5, body: .cancel(requestID: 999)),
        Request(id: 6, call: .encode(short)),
      ].flatMap(\.frameBytes))
    var responses: [UInt64: Response] = [:]
    for _ in 1...6 {
      let response = try #require(try socket.receive())
      responses[response.id] = response
    }
    #expect(responses[1]?.error == nil)
    #expect(responses[2]?.error?.code == .deadlineExceeded)
    #expect(responses[3]?.error?.code == .cancelled)
    guard case .success(.cancel(let found))? = responses[4]?.result,
      case .success(.cancel(let unknown))? = responses[5]?.result
    else {
      Issue.record("cancel was not answered")
      return
    }
    #expect(found)
    #expect(!unknown)
    #expect(responses[6]?.error == nil)
    // What ran out of time or was cancelled while it waited has cost no worker anything.
    let status = try await test.client().status()
    #expect(status.computedRequests == 2)
    #expect(status.expiredRequests == 1)
    #expect(status.cancelledRequests == 1)
    #expect(status.queuedRequests == 0 && status.queuedTokens == 0)
  }

  @Test("a request whose time runs out is told so while all workers are busy, and frees its place")
  func expiryWhileWaiting() async throws {
    let test = try TestServer(["m": slow]) {
      $0.workers = 1
      $0.limits.engine.batchTokensMax = 8192
    }
    let socket = try test.socket()
    // One batch, which takes far longer than the other's time.
    let long = Activations(tokens: 8000, dModel: 64, seed: 8).request("m")
    let short = Activations(tokens: 8000, dModel: 64, seed: 9).request("m", 32)
    var rounds: UInt64 = 0
    var isToldMeanwhile = false
    // Where cores are scarce a batch may be done before the loop sees that the time has run out.
    while !isToldMeanwhile, rounds < 100 {
      rounds += 1
      let (longID, shortID) = (2 * rounds - 1, 2 * rounds)
      socket.send(
        Request(id: longID, call: .encode(long)).frameBytes
          + Request(id: shortID, timeoutMilliseconds: 1, call: .encode(short)).frameBytes)
      let responses = try (1...2).map { _ in try #require(try socket.receive()) }
      for response in responses {
        #expect(response.error?.code == (response.id == shortID ? .deadlineExceeded : nil))
      }
      #expect(Set(responses.map(\.id)) == [longID, shortID])
      isToldMeanwhile = responses[0].id == shortID
    }
    #expect(isToldMeanwhile)
    let status = try await test.client().status()
    #expect(status.expiredRequests == rounds)
    #expect(status.queuedRequests == 0 && status.queuedTokens == 0)
  }

  @Test("cancelling a task cancels its request; the client goes on")
  func cancelledTask() async throws {
    let test = try TestServer(["m": slow]) { $0.workers = 1 }
    let client = try await test.client()
    let long = Activations(tokens: 6000, dModel: 64, seed: 2).request("m")
    var cancelled: UInt64 = 0
    for attempt in 0..<50 where cancelled == 0 {
      let task = Task { try await client.encode(long) }
      // Not a synchronisation: cancelled too early the request is never sent, too late it is answered,
      // so each attempt cancels 1 ms later than the one before.
      try await Task.sleep(for: .milliseconds(attempt))
      task.cancel()
      do { _ = try await task.value } catch is CancellationError {}
      cancelled = try await client.status().cancelledRequests
    }
    #expect(cancelled == 1)
    #expect(
      try await client.encode(Activations(tokens: 1, dModel: 64, seed: 1).request("m")).k == 32)
  }

  @Test("a client that does not read holds up nobody else, and gets everything once it reads")
  func slowReader() async throws {
    let test = try TestServer(["m": slow]) {
      $0.limits.writeQueueHighBytes = 1 << 20
      $0.limits.writeQueueLowBytes = 1 << 18
    }
    let slowSocket = try test.socket()
    var request = Activations(tokens: 100, dModel: 64, seed: 4).request("m", 64)
    // Little to send, much to receive.
    request.returnReconstruction = true
    let tokens = UInt32(4000)
    request.activations = PackedTensor(
      type: .float16, shape: [tokens, 64],
      data: SharedBytes(copying: [UInt16](repeating: 0x3c00, count: Int(tokens) * 64)))
    for id in 1...24 { slowSocket.send(Request(id: UInt64(id), call: .encode(request))) }
    let client = try await test.client()
    for seed in 0..<20 {
      let activations = Activations(tokens: 3, dModel: 64, seed: UInt64(seed))
      #expect(try await client.encode(activations.request("m", 64)).granularity == 64)
    }
    var ids: Set<UInt64> = []
    for _ in 1...24 {
      let response = try #require(try slowSocket.receive())
      #expect(response.error == nil)
      ids.insert(response.id)
    }
    #expect(ids == Set(1...24))
  }

  @Test("connections beyond the limit are told so; administration still gets through")
  func connectionLimit() async throws {
    let test = try TestServer { $0.limits.connectionsMax = 2 }
    let first = try await test.client()
    let second = try await test.client()
    _ = try await (first.status(), second.status())
    let third = try test.socket()
    let response = try third.receive()
    #expect(response?.id == 0)
    #expect(response?.error?.code == .unavailable)
    #expect(try third.receive()?.id == nil)
    #expect(try await test.admin().status().connections == 3)
    first.close()
    try await eventually("a place is free again") {
      (try? await test.client().status()) != nil
    }
  }

  @Test("a server that stops answers what it admitted, and then nobody")
  func drain() async throws {
    let test = try TestServer(["m": slow]) { $0.drainTimeout = .seconds(3600) }
    let client = try await test.client()
    let socket = try test.socket()
    let activations = Activations(tokens: 500, dModel: 64, seed: 6)
    let expected = try activations.codes(slow)
    socket.send(
      (1...20).flatMap { Request(id: $0, call: .encode(activations.request("m"))).frameBytes }
        + Request(id: 21, call: .status).frameBytes)
    var answered: Set<UInt64> = []
    func receive() throws -> Bool {
      guard let response = try socket.receive() else { return false }
      #expect(answered.insert(response.id).inserted)
      if case .encode(let encoded) = try response.result.get() {
        #expect(try encoded.sparseCodes() == expected)
      }
      return true
    }
    // The status is asked for last: once it is there, all have been admitted.
    while !answered.contains(21) { try #require(try receive(), "the server has ended too early") }
    test.server.beginStop()
    while try receive() {}
    #expect(answered == Set(1...21))
    test.server.wait()
    await #expect(throws: ClientError.self) { try await test.client() }
    await #expect(throws: ClientError.self) { try await client.status() }
  }
}
