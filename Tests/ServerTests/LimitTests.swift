import Foundation
import GranuleClient
import GranuleDictionary
import GranuleEngine
import GranuleServer
import GranuleWire
import TestSupport
import Testing

@Suite struct LimitTests {
  @Test("the defaults are valid, and every limit can be set by its name and read again")
  func everyLimit() throws {
    try ServerLimits().validate()
    #expect(Set(ServerLimits.all.map(\.name)).count == ServerLimits.all.count)
    // A stored property that the table forgets would be a bound that nobody can see or set.
    let own = Mirror(reflecting: ServerLimits()).children.count - 1
    let engine = Mirror(reflecting: EngineLimits()).children.count
    #expect(own + engine == ServerLimits.all.count)
    for limit in ServerLimits.all {
      var limits = ServerLimits()
      let other = limit.value(in: limits) / 2
      let value = limit.unit == .seconds ? other : max(other.rounded(), limit.range.lowerBound)
      try limits.set("\(limit.name)=\(limit.unit == .seconds ? "\(value)" : "\(Int(value))")")
      #expect(abs(limit.value(in: limits) - value) < 1e-6, "\(limit.name)")
      for untouched in ServerLimits.all where untouched.name != limit.name {
        #expect(untouched.value(in: limits) == untouched.value(in: ServerLimits()))
      }
      try limits.set("\(limit.name)=\(limit.text(in: ServerLimits()))")
      #expect(limit.value(in: limits) == limit.value(in: ServerLimits()), "\(limit.name)")
    }
  }

  @Test("values that make no sense are refused, naming the limit")
  func nonsense() {
    for (assignment, words) in [
      ("stall", "must be NAME=VALUE"), ("stal=1", "there is no such limit"),
      ("stall=", "not a number of s"), ("stall=nan", "not a number"),
      ("stall=-1", "must be 0.001 to"),
      ("stages-max=0", "must be 1.0 to"), ("stages-max=1.5", "not a number"),
      ("stages-max=1KiB", "not a number"), ("frame-bytes-max=1TiB", "not a number of bytes"),
      ("frame-bytes-max=4GiB", "must be"), ("frame-bytes-max=1e300", "must be"),
    ] {
      var limits = ServerLimits()
      let error = #expect(throws: ServerLimitError.self) { try limits.set(assignment) }
      #expect(error?.description.contains(words) == true, "\(error?.description ?? "accepted")")
    }
    var limits = ServerLimits()
    #expect(throws: Never.self) { try limits.set("frame-bytes-max=1MiB") }
    #expect(limits.frameBytesMax == 1 << 20)
  }

  @Test("limits that contradict each other are refused, naming both; a server does not start")
  func contradictions() throws {
    for (small, large, _) in ServerLimits.ordered {
      var limits = ServerLimits()
      let low = try #require(ServerLimits.all.first { $0.name == small })
      let high = try #require(ServerLimits.all.first { $0.name == large })
      // Down to just below the other, which is always in range.
      let value = low.value(in: limits) - (low.unit == .seconds ? 0.01 : 1)
      try limits.set("\(large)=\(high.unit == .seconds ? "\(value)" : "\(Int(value))")")
      let error = #expect(throws: ServerLimitError.self) { try limits.validate() }
      #expect(
        error?.description.contains(small) == true && error?.description.contains(large) == true)
    }
    #expect(throws: ServerLimitError.self) {
      _ = try TestServer { $0.limits.engine.batchTokensMax = $0.limits.engine.queueTokensMax + 1 }
    }
  }

  @Test("docs/limits.md has every limit with its default, and no other")
  func documented() throws {
    let page = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appending(path: "docs/limits.md")
    let text = try String(contentsOf: page, encoding: .utf8)
    for limit in ServerLimits.all {
      let section = "### `\(limit.name)`\nDefault: \(limit.quantity(in: ServerLimits())). "
      #expect(text.contains(section), "docs/limits.md lacks: \(section)")
    }
    #expect(text.split(separator: "\n").count { $0.hasPrefix("### ") } == ServerLimits.all.count)
  }

  // MARK: What they do

  @Test("a peer must move enough bytes in each window, and only while something is pending")
  func progress() {
    let start = ContinuousClock.now
    var watch = ProgressWatch(window: .seconds(10), bytesPerSecondMin: 100)
    func stalled(_ second: Int, _ isPending: Bool, _ bytes: Int) -> Bool {
      watch.isStalled(isPending: isPending, bytes: bytes, now: start + .seconds(second))
    }
    #expect(!stalled(0, false, 0))
    #expect(!stalled(100, true, 0))
    #expect(!stalled(109, true, 10))
    #expect(!stalled(110, true, 1000))
    #expect(!stalled(119, true, 1000))
    #expect(stalled(120, true, 1999))
    // Nothing pending at a sweep: the window begins anew.
    #expect(!stalled(129, false, 1999))
    #expect(!stalled(130, true, 1999))
    #expect(!stalled(139, true, 1999))
    #expect(stalled(140, true, 1999))
    watch = ProgressWatch(window: .seconds(10), bytesPerSecondMin: 0)
    #expect(!stalled(0, true, 5))
    #expect(stalled(10, true, 5))
    #expect(!stalled(20, true, 6))
  }

  @Test("who stops in the middle of a frame is told so and closed; others stay")
  func slowWriter() async throws {
    let test = try TestServer {
      $0.limits.stall = .milliseconds(50)
      $0.limits.sweepInterval = .milliseconds(10)
    }
    let other = try test.socket()
    let socket = try test.socket()
    socket.send(Array(Request(id: 1, call: .status).frameBytes.dropLast()))
    let response = try socket.receive()
    #expect(response?.id == 0)
    #expect(response?.error?.code == .deadlineExceeded)
    #expect(response?.error?.message.contains("4096 bytes a second") == true)
    #expect(try socket.receive()?.id == nil)
    other.send(Request(id: 1, call: .status))
    #expect(try other.receive()?.id == 1)
  }

  @Test("who does not read its responses is closed, and what waited for it is dropped")
  func slowReader() async throws {
    let dictionary = SparseAutoencoder.random(dModel: 64, latents: 64, rule: .relu, seed: 61)
    let test = try TestServer(["m": dictionary]) {
      $0.limits.stall = .milliseconds(100)
      $0.limits.sweepInterval = .milliseconds(10)
    }
    let socket = try test.socket()
    var request = Activations(tokens: 1, dModel: 64, seed: 1).request("m")
    request.returnReconstruction = true
    request.activations = PackedTensor(
      type: .float16, shape: [8000, 64],
      data: SharedBytes(copying: [UInt16](repeating: 0x3c00, count: 8000 * 64)))
    // More than the system's buffers hold.
    for id in 1...12 { socket.send(Request(id: UInt64(id), call: .encode(request))) }
    let client = try await test.client()
    try await eventually("only the client that asks is left") {
      let status = try await client.status()
      return status.connections == 1 && status.queuedRequests == 0
    }
    #expect(
      try await client.encode(Activations(tokens: 1, dModel: 64, seed: 2).request("m")).version == 1
    )
  }

  @Test("a connection without requests is told so and closed after a while")
  func idle() async throws {
    let test = try TestServer {
      $0.limits.idle = .milliseconds(50)
      $0.limits.sweepInterval = .milliseconds(10)
    }
    let socket = try test.socket()
    let response = try socket.receive()
    #expect(response?.id == 0)
    #expect(response?.error?.code == .unavailable)
    #expect(response?.error?.message.contains("without requests") == true)
    #expect(try socket.receive()?.id == nil)
  }
}
