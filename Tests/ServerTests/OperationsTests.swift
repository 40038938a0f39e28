import Foundation
import GranuleClient
import GranuleDictionary
import GranuleRepository
import GranuleServer
import GranuleTransport
import GranuleWire
import TestSupport
import Testing

private let dictionary = SparseAutoencoder.random(
  dModel: 16, latents: 128, rule: .topk(k: 8), seed: 61
) {
  $0.granularities = [Granularity(latents: 64, k: 6), Granularity(latents: 128, k: 8)]
}

@Suite struct OperationsTests {
  private func serving(
    _ dictionaries: [String: SparseAutoencoder] = ["m": dictionary],
    configure: (inout ServerOptions) -> Void = { _ in }
  ) throws -> TestServer {
    try TestServer(dictionaries) {
      $0.httpListen = .tcp(host: "127.0.0.1", port: 0)
      configure(&$0)
    }
  }

  @Test("metrics count what was asked, how it ended, and what it took")
  func counts() async throws {
    let test = try serving()
    let client = try await test.client()
    let five = Activations(tokens: 5, dModel: 16, seed: 1)
    for _ in 0..<3 { _ = try await client.encode(five.request("m", 64)) }
    var staged = five.request("m")
    staged.granularities = [64, 128]
    _ = try await client.encode(staged)
    await #expect(throws: ServerError.self) { try await client.encode(five.request("none")) }
    await #expect(throws: ServerError.self) { try await client.encode(five.request("m", 129)) }
    var broken = five.request("m")
    broken.granularities = [8, 8]
    await #expect(throws: ServerError.self) { try await client.encode(broken) }
    let codes = PackedCodes(rowOffsets: [0, 1], indices: [1], values: [])
    await #expect(throws: ServerError.self) {
      try await client.decode(DecodeRequest(model: "m", codes: codes))
    }
    _ = try await client.status()

    let metrics = try test.metrics()
    func expect(_ value: Double, _ name: String, _ location: SourceLocation = #_sourceLocation) {
      #expect(metrics[name] == value, "\(name)", sourceLocation: location)
    }
    expect(4, "granule_requests_total{method=\"encode\",code=\"OK\"}")
    expect(1, "granule_requests_total{method=\"encode\",code=\"NOT_FOUND\"}")
    expect(2, "granule_requests_total{method=\"encode\",code=\"INVALID_ARGUMENT\"}")
    expect(1, "granule_requests_total{method=\"decode\",code=\"INVALID_ARGUMENT\"}")
    expect(1, "granule_requests_total{method=\"status\",code=\"OK\"}")
    expect(20, "granule_tokens_total{model=\"m\",method=\"encode\"}")
    expect(4, "granule_requests_computed_total")
    expect(0, "granule_requests_shed_total")
    // Of five stages, of which two belong to one request.
    expect(5, "granule_compute_seconds_count{model=\"m\"}")
    expect(5, "granule_queue_seconds_count{model=\"m\"}")
    expect(3, "granule_granularity_asked_bucket{model=\"m\",le=\"64\"}")
    expect(4, "granule_granularity_asked_bucket{model=\"m\",le=\"128\"}")
    expect(3 * 64 + 128, "granule_granularity_served_sum{model=\"m\"}")
    expect(1, "granule_connections")
    expect(1, "granule_connections_accepted_total")
    expect(1, "granule_model_serving_version{model=\"m\"}")
    expect(128, "granule_model_resident_latents{model=\"m\",version=\"1\"}")
    expect(0, "granule_queued_tokens")
    expect(0, "granule_admitted_bytes")
    expect(1, "granule_ready")
    expect(1, "granule_build_info{version=\"\(Server.version)\"}")
    #expect(
      metrics["granule_model_resident_bytes{model=\"m\",version=\"1\"}"] ?? 0 > 8192)
    #expect(metrics["process_resident_memory_bytes"] ?? 0 > 1e6)
    #expect(metrics["granule_compute_seconds_sum{model=\"m\"}"] ?? 0 > 0)
    #expect(!metrics.keys.contains { $0.contains("none") }, "clients cannot invent labels")
    #expect(!metrics.keys.contains { $0.contains("unknown") }, "a wrong request has its method")
  }

  @Test("metrics tell the granularity that was asked for from the one that load allowed")
  func shedding() async throws {
    let test = try serving {
      $0.workers = 1
      $0.limits.engine.shedAbove = .zero
      $0.limits.engine.shedBelow = .zero
      $0.limits.engine.shedInterval = .zero
    }
    let client = try await test.client()
    var request = Activations(tokens: 5, dModel: 16, seed: 2).request("m", 128)
    request.minGranularity = 64
    for _ in 0..<3 { _ = try await client.encode(request) }
    let metrics = try test.metrics()
    #expect(metrics["granule_requests_shed_total"] == 3)
    #expect(metrics["granule_granularity_asked_sum{model=\"m\"}"] == 384)
    #expect(metrics["granule_granularity_served_sum{model=\"m\"}"] == 192)
    #expect(metrics["granule_shed_level"] ?? 0 > 0)
  }

  @Test("models beyond the limit are counted together")
  func manyModels() async throws {
    let test = try serving(["a": dictionary, "b": dictionary, "c": dictionary]) {
      $0.limits.engine.metricsModelsMax = 1
    }
    let client = try await test.client()
    for name in ["b", "a", "c", "b"] {
      _ = try await client.encode(Activations(tokens: 2, dModel: 16, seed: 3).request(name))
    }
    let metrics = try test.metrics()
    #expect(metrics["granule_tokens_total{model=\"b\",method=\"encode\"}"] == 4)
    #expect(metrics["granule_tokens_total{model=\"_other\",method=\"encode\"}"] == 4)
    #expect(metrics["granule_tokens_total{model=\"a\",method=\"encode\"}"] == nil)
  }

  @Test("swaps and what could not be loaded are counted and logged, one line each")
  func swaps() async throws {
    let lines = LogLines()
    let test = try serving { $0.logger = lines.logger }
    let client = try await test.client()
    #expect(lines.count("swap", ["model": "m", "version": "1"]) == 1)
    let path = "\(test.repository.path)/m/2"
    try test.publish(dictionary, "m")
    try await eventually("version 2 serves") {
      try await client.listModels()[0].servingVersion == 2
    }
    // The weights are not those of the manifest.
    try FileManager.default.copyItem(atPath: path, toPath: "\(test.folder.path)/3")
    let weights = "\(test.folder.path)/3/sae_weights.safetensors"
    try FileManager.default.removeItem(atPath: weights)
    try Data(count: 1000).write(to: URL(fileURLWithPath: weights))
    try FileManager.default.moveItem(
      atPath: "\(test.folder.path)/3", toPath: "\(test.repository.path)/m/3")
    try await eventually("version 3 has failed") {
      try await client.listModels()[0].versions.contains { $0.state == .failed }
    }
    let metrics = try test.metrics()
    #expect(metrics["granule_model_swaps_total"] == 2)
    #expect(metrics["granule_model_load_failures_total"] == 1)
    #expect(metrics["granule_model_failed_versions{model=\"m\"}"] == 1)
    #expect(metrics["granule_model_serving_version{model=\"m\"}"] == 2)
    #expect(lines.count("swap", ["model": "m", "version": "2"]) == 1)
    #expect(lines.count("load_failure", ["model": "m", "version": "3"]) == 1)
  }

  @Test("an overload is a line when it begins and one when it is over, which says to whom")
  func overloadEpisode() async throws {
    let lines = LogLines()
    let test = try serving {
      $0.logger = lines.logger
      $0.workers = 1
      $0.limits.engine.shedAbove = .zero
      $0.limits.engine.shedBelow = .zero
      $0.limits.engine.shedInterval = .zero
      $0.limits.sweepInterval = .milliseconds(5)
      $0.limits.overloadQuiet = .milliseconds(5)
    }
    var request = Activations(tokens: 5, dModel: 16, seed: 2).request("m", 128)
    request.minGranularity = 64
    _ = try await test.client().encode(request)
    try await eventually("the overload is over") {
      lines.count("overload", ["phase": "ended"]) == 1
    }
    #expect(lines.count("overload", ["phase": "began"]) == 1)
    #expect(lines.count("overload", ["phase": "ended", "shed": "1", "refused": "0"]) == 1)
  }

  @Test("abnormal ends of connections are counted all and logged a few")
  func abnormalCloses() throws {
    let lines = LogLines()
    let test = try serving {
      $0.logger = lines.logger
      $0.limits.engine.logBurst = 3
      $0.limits.engine.logInterval = .seconds(3600)
    }
    for _ in 0..<8 {
      let socket = try test.socket()
      socket.send(frame: [0xff, 0xff])
      #expect(try socket.receive()?.error?.code == .invalidArgument)
    }
    let metrics = try test.metrics()
    #expect(metrics["granule_connections_aborted_total{reason=\"bad_frame\"}"] == 8)
    #expect(metrics["granule_log_lines_suppressed_total"] == 5)
    #expect(lines.count("connection_closed", ["reason": "bad_frame"]) == 3)
  }

  @Test("unused memory is given back once after each time of work, and when a model shrinks")
  func trimming() async throws {
    let test = try serving {
      $0.limits.sweepInterval = .milliseconds(5)
      $0.limits.engine.trimAfter = .milliseconds(5)
    }
    func trims() throws -> Double? { try test.metrics()["granule_memory_trims_total"] }
    let client = try await test.client()
    try await eventually("the start left something") { try trims() == 1 }
    let request = Activations(tokens: 5, dModel: 16, seed: 1).request("m", 64)
    _ = try await client.encode(request)
    try await eventually("a request left something") { try trims() == 2 }
    _ = try await test.admin().resizeModel("m", granularity: 64)
    #expect(try trims() == 3)
    // Further sweeps have come by then, and found nothing to do.
    for _ in 0..<100 { #expect(try trims() == 3) }
  }

  @Test("probes: alive and ready, then alive and not ready while the server sees clients out")
  func probes() throws {
    let test = try serving { $0.limits.finish = .seconds(60) }
    #expect(try test.http("/healthz").status == 200)
    #expect(try test.http("/readyz").status == 200)
    let metrics = try test.http("/metrics")
    #expect(metrics.headers.contains("Content-Type: text/plain; version=0.0.4"))
    #expect(try test.http("/metrics", method: "HEAD").body.isEmpty)
    #expect(try test.http("/").status == 404)
    #expect(try test.http("/readyz", method: "POST").status == 405)

    // As long as it does not hang up, the server waits for it.
    let socket = try test.socket()
    socket.send(Request(id: 1, call: .status))
    #expect(try socket.receive()?.id == 1)
    test.server.beginStop()
    #expect(try test.http("/readyz").status == 503)
    #expect(try test.http("/healthz").status == 200)
    #expect(try test.metrics()["granule_ready"] == 0)
    socket.endSending()
  }

  @Test("each answer over HTTP ends its connection, so that the next one finds a place")
  func connectionsEnd() throws {
    let test = try serving { $0.limits.httpConnectionsMax = 1 }
    var sockets: [RawSocket] = []
    for _ in 0..<3 {
      let socket = try RawSocket(try #require(test.server.httpAddress))
      // HTTP/1.1 keeps a connection where nobody says otherwise.
      socket.send(Array("GET /healthz HTTP/1.1\r\nHost: granule\r\n\r\n".utf8))
      let answer = String(decoding: try socket.receiveAll(), as: UTF8.self)
      #expect(answer.hasPrefix("HTTP/1.1 200 "))
      #expect(answer.contains("Connection: close"))
      sockets.append(socket)
    }
    withExtendedLifetime(sockets) {}
  }

  @Test("an HTTP address that cannot be used keeps the server from starting")
  func unusableAddress() throws {
    let test = try serving()
    let used = #expect(throws: EventLoopError.self) {
      try serving { $0.httpListen = test.server.httpAddress }
    }
    #expect(used?.reason == String(cString: strerror(EADDRINUSE)), "\(used?.reason ?? "")")
    let wrong = #expect(throws: EventLoopError.self) {
      try serving { $0.httpListen = .unix(path: "/tmp/none") }
    }
    #expect(wrong?.reason.contains("must be HOST:PORT") == true, "\(wrong?.reason ?? "")")
  }

  @Test("docs/operations.md names every metric")
  func documented() throws {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
    let text = try String(
      contentsOf: root.appendingPathComponent("docs/operations.md"), encoding: .utf8)
    let documented = Set(text.matches(of: /`([a-z_]+)[`{]/).map { String($0.output.1) })
    let metrics = try serving().http("/metrics").body.matches(of: /# TYPE ([a-z_]+)/)
    #expect(metrics.count > 30)
    for metric in metrics { #expect(documented.contains(String(metric.output.1))) }
  }

  private static let promtool = ["/usr/bin/promtool", "/usr/local/bin/promtool"].first {
    FileManager.default.isExecutableFile(atPath: $0)
  }

  @Test(
    "Prometheus's own checker finds nothing to say about the metrics",
    .enabled(if: promtool != nil, "promtool is not installed"))
  func checkedByPrometheus() async throws {
    let test = try serving()
    let client = try await test.client()
    _ = try await client.encode(Activations(tokens: 5, dModel: 16, seed: 1).request("m", 64))
    let process = Process()
    let (input, output) = (Pipe(), Pipe())
    process.executableURL = URL(fileURLWithPath: try #require(Self.promtool))
    process.arguments = ["check", "metrics"]
    process.standardInput = input
    process.standardOutput = output
    process.standardError = output
    try process.run()
    // The text is shorter than a pipe holds.
    try input.fileHandleForWriting.write(contentsOf: Data(try test.http("/metrics").body.utf8))
    try input.fileHandleForWriting.close()
    let said = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    #expect(process.terminationStatus == 0, "\(String(decoding: said, as: UTF8.self))")
  }
}
