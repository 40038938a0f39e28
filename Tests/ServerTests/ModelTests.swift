import Glibc
import GranuleClient
import GranuleDictionary
import GranuleRepository
import GranuleServer
import GranuleTransport
import GranuleWire
import Synchronization
import TestSupport
import Testing

private func dictionary(_ seed: UInt64) -> SparseAutoencoder {
  .random(dModel: 16, latents: 64, rule: .topk(k: 8), seed: seed)
}

/// What the clients of a test have seen, and whether they may stop.
private final class Sightings: Sendable {
  private let state = Mutex((isDone: false, versions: Set<UInt64>()))
  var isDone: Bool { state.withLock { $0.isDone } }
  var versions: Set<UInt64> { state.withLock { $0.versions } }
  func finish() { state.withLock { $0.isDone = true } }
  func see(_ version: UInt64) { state.withLock { _ = $0.versions.insert(version) } }
}

@Suite struct ModelTests {
  @Test("while versions are swapped under load, every answer is wholly its version's; none fails")
  func swapUnderLoad() async throws {
    let versions = (1...6).map { dictionary(UInt64(100 + $0)) }
    let test = try TestServer(["m": versions[0]])
    let activations = Activations(tokens: 300, dModel: 16, seed: 1)
    let expected = try versions.map { try activations.codes($0) }
    let sightings = Sightings()
    let clients = [try await test.client(), try await test.client()]
    try await withThrowingTaskGroup(of: Void.self) { group in
      defer { sightings.finish() }
      for client in clients + clients {
        group.addTask {
          while !sightings.isDone {
            let response = try await client.encode(activations.request("m"))
            sightings.see(response.version)
            #expect(try response.sparseCodes() == expected[Int(response.version) - 1])
          }
        }
      }
      try await eventually("version 1 answers") { sightings.versions.contains(1) }
      for version in versions.dropFirst() {
        let number = try test.publish(version, "m")
        try await eventually("version \(number) answers") { sightings.versions.contains(number) }
      }
      sightings.finish()
      try await group.waitForAll()
    }
    #expect(sightings.versions == Set(1...6))
  }

  @Test("administration loads, pins, resizes and unloads, each in effect once it is answered")
  func administration() async throws {
    let test = try TestServer(["m": dictionary(1)])
    let client = try await test.client()
    let admin = try await test.admin()
    let activations = Activations(tokens: 5, dModel: 16, seed: 2)
    func version() async throws -> UInt64 {
      try await client.encode(activations.request("m")).version
    }
    try test.publish(dictionary(2), "m")
    #expect(try await admin.loadModel("m").servingVersion == 2)
    #expect(try await version() == 2)

    let pinned = try await admin.loadModel("m", version: 1)
    #expect(pinned.pinned && pinned.servingVersion == 1)
    try test.publish(dictionary(3), "m")
    try await eventually("version 3 is known") {
      try await client.listModels().first?.versions.contains {
        $0.version == 3 && $0.state == .available
      } == true
    }
    #expect(try await version() == 1)
    #expect(try await admin.loadModel("m").servingVersion == 3)
    #expect(try await version() == 3)

    let small = try await admin.resizeModel("m", granularity: 10)
    let ready = try #require(small.versions.first { $0.state == .ready })
    #expect(ready.residentLatents == 10)
    #expect(ready.latents == 64)
    let tooLarge = await #expect(throws: ServerError.self) {
      try await client.encode(activations.request("m", 11))
    }
    #expect(tooLarge?.code == .failedPrecondition)
    #expect(tooLarge?.message.contains("ask for at most 10") == true)
    #expect(
      try await client.encode(activations.request("m", 10)).sparseCodes()
        == activations.codes(dictionary(3), 10))
    let codes = PackedCodes(rowOffsets: [0, 1, 2], indices: [9, 10], values: [1, 1])
    let undecodable = await #expect(throws: ServerError.self) {
      try await client.decode(DecodeRequest(model: "m", codes: codes))
    }
    #expect(undecodable?.code == .failedPrecondition)
    #expect(undecodable?.message.contains("token 1 names latent 10") == true)
    let tooMany = await #expect(throws: ServerError.self) {
      try await admin.resizeModel("m", granularity: 65)
    }
    #expect(tooMany?.code == .invalidArgument)
    _ = try await admin.resizeModel("m", granularity: 0)
    #expect(
      try await client.encode(activations.request("m")).sparseCodes()
        == activations.codes(dictionary(3)))

    let gone = try await admin.unloadModel("m")
    #expect(gone.servingVersion == 0)
    // Its memory is free by now: nothing holds it any more.
    #expect(gone.versions.allSatisfy { $0.state == .available })
    let unloaded = await #expect(throws: ServerError.self) { try await version() }
    #expect(unloaded?.code == .failedPrecondition)
    try test.publish(dictionary(4), "m")
    try await eventually("version 4 is known") {
      try await client.listModels().first?.versions.contains { $0.version == 4 } == true
    }
    await #expect(throws: ServerError.self) { try await version() }
    #expect(try await admin.loadModel("m").servingVersion == 4)
    #expect(try await version() == 4)

    for attempt in [
      { try await admin.loadModel("other") }, { try await admin.unloadModel("other") },
      { try await admin.resizeModel("other", granularity: 1) },
      { try await admin.loadModel("m", version: 99) },
    ] as [() async throws -> ModelStatus] {
      let error = await #expect(throws: ServerError.self) { try await attempt() }
      #expect(error?.code == .notFound)
    }
    #expect(try await version() == 4)
  }

  @Test(
    "versions kept beside the one that serves answer requests that name them, and swap in at once")
  func beside() async throws {
    let test = try TestServer(["m": dictionary(1)])
    let client = try await test.client()
    let admin = try await test.admin()
    let activations = Activations(tokens: 5, dModel: 16, seed: 3)
    func encode(version: UInt64, _ granularity: Int = 0) async throws -> EncodeResponse {
      var request = activations.request("m", granularity)
      request.version = version
      return try await client.encode(request)
    }
    func refusal(version: UInt64) async -> String? {
      await #expect(throws: ServerError.self) { try await encode(version: version) }?.message
    }
    try test.publish(dictionary(2), "m")
    try test.publish(dictionary(3), "m")
    #expect(try await admin.loadModel("m").servingVersion == 3)
    #expect(await refusal(version: 1)?.contains("resident: 3") == true)
    for version in [1, 2, 3] as [UInt64] {
      let model = try await admin.loadModel("m", version: version, beside: true)
      #expect(model.servingVersion == 3 && !model.pinned)
    }
    for version in [1, 2, 3] as [UInt64] {
      #expect(
        try await encode(version: version).sparseCodes() == activations.codes(dictionary(version)))
    }
    #expect(try await encode(version: 0).version == 3)

    // Every version of the model is resized, and those that come after.
    _ = try await admin.resizeModel("m", granularity: 20)
    for version in [1, 2, 3] as [UInt64] {
      #expect(try await encode(version: version).granularity == 20)
      await #expect(throws: ServerError.self) { try await encode(version: version, 21) }
    }
    _ = try await admin.resizeModel("m", granularity: 0)
    #expect(try await encode(version: 1).granularity == 64)

    // Back to the first, whose files are not read again: they have gone.
    rename(test.repository.path + "/m/1/sae_weights.safetensors", test.folder.path + "/gone")
    #expect(try await admin.loadModel("m", version: 1).servingVersion == 1)
    #expect(try await encode(version: 0).version == 1)
    #expect(try await encode(version: 2).version == 2)
    #expect(await refusal(version: 9)?.contains("resident: 1, 2, 3") == true)

    let without = try await admin.unloadModel("m", version: 2)
    #expect(without.versions.first { $0.version == 2 }?.state == .available)
    #expect(await refusal(version: 2)?.contains("resident: 1, 3") == true)
    for (version, code) in [(2, .notFound), (99, .notFound)] as [(UInt64, ErrorCode)] {
      let error = await #expect(throws: ServerError.self) {
        try await admin.unloadModel("m", version: version)
      }
      #expect(error?.code == code)
    }
    // Kept no longer, but it serves.
    #expect(try await admin.unloadModel("m", version: 1).servingVersion == 1)
    let serving = await #expect(throws: ServerError.self) {
      try await admin.unloadModel("m", version: 1)
    }
    #expect(serving?.code == .failedPrecondition)
    #expect(try await encode(version: 0).version == 1)

    let gone = try await admin.unloadModel("m")
    #expect(gone.versions.allSatisfy { $0.state == .available })
    #expect(await refusal(version: 3)?.contains("unloaded by request") == true)
    let unserved = await #expect(throws: ServerError.self) {
      try await admin.loadModel("m", version: 2, beside: true)
    }
    #expect(unserved?.code == .failedPrecondition)
    let nameless = await #expect(throws: ServerError.self) {
      try await admin.loadModel("m", beside: true)
    }
    #expect(nameless?.code == .invalidArgument)
  }

  @Test("a version kept beside another is freed once it is let go of, whatever was cancelled")
  func cancelledBeside() async throws {
    let test = try TestServer(["m": dictionary(1)]) { $0.workers = 1 }
    let client = try await test.client()
    let admin = try await test.admin()
    try test.publish(dictionary(2), "m")
    #expect(try await admin.loadModel("m").servingVersion == 2)
    _ = try await admin.loadModel("m", version: 1, beside: true)
    var request = Activations(tokens: 200, dModel: 16, seed: 6).request("m")
    request.version = 1
    request.omitCodes = true
    let socket = try test.socket()
    for id in 1...100 as ClosedRange<UInt64> {
      socket.send(
        Request(id: id, call: .encode(request)).frameBytes
          + Request(id: 1000 + id, body: .cancel(requestID: id)).frameBytes)
    }
    var cancelled = 0
    for _ in 1...200 {
      let response = try #require(try socket.receive())
      if response.error?.code == .cancelled { cancelled += 1 }
    }
    #expect(cancelled > 0)
    _ = try await admin.unloadModel("m", version: 1)
    try await eventually("version 1 is freed") {
      let versions = try await client.listModels().first?.versions ?? []
      return versions.first { $0.version == 1 }?.state == .available
    }
  }

  @Test("a version that cannot be loaded is listed with the reason, and what serves goes on")
  func failedLoad() async throws {
    let test = try TestServer(["m": dictionary(1)])
    let client = try await test.client()
    let admin = try await test.admin()
    let broken = test.repository.path + "/m/2"
    mkdir(broken, 0o755)
    let manifest = open(broken + "/manifest.json", O_WRONLY | O_CREAT, 0o644)
    write(manifest, "{}", 2)
    close(manifest)
    try await eventually("version 2 is listed as failed") {
      try await client.listModels().first?.versions.contains {
        $0.version == 2 && $0.state == .failed && $0.failure.contains("manifest.json")
      } == true
    }
    let error = await #expect(throws: ServerError.self) {
      try await admin.loadModel("m", version: 2)
    }
    #expect(error?.code == .failedPrecondition)
    let models = try await client.listModels()
    #expect(models.first?.servingVersion == 1)
    #expect(models.first?.pinned == false)
    #expect(try test.publish(dictionary(3), "m") == 3)
    try await eventually("version 3 serves") {
      try await client.listModels().first?.servingVersion == 3
    }
  }

  @Test("what could not be loaded is tried again, though its files look the same")
  func triedAgain() async throws {
    let test = try TestServer(["m": dictionary(1)]) {
      $0.httpListen = .tcp(host: "127.0.0.1", port: 0)
      $0.limits.engine.loadRetryMin = .milliseconds(20)
      $0.limits.engine.loadRetryMax = .milliseconds(40)
    }
    let client = try await test.client()
    // Aside, so that it is broken from the start.
    let aside = ModelRepository(path: test.folder.path + "/aside")
    mkdir(aside.path, 0o755)
    let files = test.folder.path + "/files"
    mkdir(files, 0o755)
    try dictionary(2).write(to: files)
    _ = try aside.publish(folder: files, name: "m")
    let weights = "\(aside.path)/m/1/sae_weights.safetensors"
    var status = stat()
    #expect(stat(weights, &status) == 0)
    func write(_ byte: UInt8, at path: String) -> UInt8 {
      let file = open(path, O_RDWR)
      defer { close(file) }
      var (before, after) = (UInt8(0), byte)
      pread(file, &before, 1, status.st_size - 1)
      pwrite(file, &after, 1, status.st_size - 1)
      let times = [status.st_mtim, status.st_mtim]
      futimens(file, times)
      return before
    }
    let right = write(0x55, at: weights)
    rename("\(aside.path)/m/1", "\(test.repository.path)/m/2")
    try await eventually("version 2 has failed several times") {
      try test.metrics()["granule_model_load_failures_total"] ?? 0 >= 3
    }
    #expect(try await client.listModels().first?.servingVersion == 1)
    _ = write(right, at: "\(test.repository.path)/m/2/sae_weights.safetensors")
    try await eventually("version 2 serves") {
      try await client.listModels().first?.servingVersion == 2
    }
  }

  @Test("a number that is used again names what is in memory until that is loaded anew")
  func numberUsedAgain() async throws {
    let test = try TestServer(["m": dictionary(1)])
    let client = try await test.client()
    let admin = try await test.admin()
    let activations = Activations(tokens: 5, dModel: 16, seed: 5)
    /// Whether version 2 serves and is this dictionary, by its answers and by its digest.
    func expectServing(_ dictionary: SparseAutoencoder, sha256: String) async throws {
      let response = try await client.encode(activations.request("m"))
      #expect(response.version == 2)
      #expect(try response.sparseCodes() == activations.codes(dictionary))
      let versions = try await client.listModels().first?.versions ?? []
      #expect(versions.first { $0.version == 2 }?.sha256 == sha256)
    }
    #expect(try test.publish(dictionary(2), "m") == 2)
    _ = try await admin.loadModel("m")
    let before = try test.repository.load("m", version: 2).sha256
    try await expectServing(dictionary(2), sha256: before)

    rename(test.repository.path + "/m/2", test.folder.path + "/withdrawn")
    #expect(try test.publish(dictionary(3), "m") == 2)
    let after = try test.repository.load("m", version: 2).sha256
    #expect(after != before)
    _ = try await admin.loadModel("m")
    try await expectServing(dictionary(2), sha256: before)

    _ = try await admin.unloadModel("m")
    _ = try await admin.loadModel("m")
    try await expectServing(dictionary(3), sha256: after)
  }

  @Test("a repository that is emptied unloads nothing")
  func emptiedRepository() async throws {
    let test = try TestServer(["m": dictionary(1)])
    let client = try await test.client()
    rename(test.repository.path + "/m", test.folder.path + "/gone")
    try await eventually("no version is known but the one that serves") {
      let model = try await client.listModels().first
      return model?.servingVersion == 1 && model?.versions.count == 1
    }
    rename(test.repository.path, test.folder.path + "/gone-too")
    let activations = Activations(tokens: 5, dModel: 16, seed: 2)
    #expect(try await client.encode(activations.request("m")).version == 1)
    rename(test.folder.path + "/gone-too", test.repository.path)
  }

  @Test("a server told how many latents to keep loads no more, until a model is resized")
  func granularityMax() async throws {
    let test = try TestServer(["m": dictionary(1)]) { $0.granularityMax = 12 }
    let client = try await test.client()
    let activations = Activations(tokens: 5, dModel: 16, seed: 4)
    #expect(
      try await client.encode(activations.request("m")).sparseCodes()
        == activations.codes(dictionary(1), 12))
    try test.publish(dictionary(2), "m")
    #expect(try await test.admin().loadModel("m").servingVersion == 2)
    #expect(try await client.encode(activations.request("m")).granularity == 12)
    _ = try await test.admin().resizeModel("m", granularity: 0)
    #expect(try await client.encode(activations.request("m")).granularity == 64)
  }

  @Test("a model that is published later is served without a restart")
  func laterModel() async throws {
    let test = try TestServer()
    let client = try await test.client()
    #expect(try await client.listModels().isEmpty)
    try test.publish(dictionary(1), "late")
    try await eventually("it serves") {
      try await client.listModels().first?.servingVersion == 1
    }
    let version = try #require(try await client.listModels().first?.versions.first)
    #expect(version.dModel == 16)
    #expect(version.selectionRule == "topk")
    #expect(version.sha256.count == 64)
  }
}
