import Foundation
import GranuleClient
import GranuleDictionary
import GranuleRepository
import GranuleServer
import GranuleWire
import Synchronization
import TestSupport
import Testing

/// Clients ask without pause while versions are published, pinned, resized, kept beside, corrupted
/// and withdrawn at random: what should be answered is, by the version that the answer names.
///
/// `GRANULE_STORM_SECONDS` says for how long (60), `GRANULE_STORM_SEED` replays the random choices.
/// Memory is held against what it was before where `GRANULE_DEEP` says that no other test runs beside.
@Suite struct SwapStormTests {
  private static let latents = 64
  /// Never fewer are resident: up to this many every request must be answered.
  private static let residentMin = 16
  /// More are not left in the repository, so that an hour is as each of its minutes.
  private static let versionsMax = 32

  /// What the clients have seen, what failed, and whether they may stop.
  private final class Log: Sendable {
    struct State {
      var isDone = false
      var answered = 0
      var refused = 0
      /// Of those answered: at a granularity, or by a version, that may not be resident.
      var answeredLarge = 0
      var answeredNamed = 0
      var byVersion: [UInt64: Int] = [:]
      var dictionaries: [UInt64: SparseAutoencoder] = [:]
    }
    private let state = Mutex(State())

    var snapshot: State { state.withLock { $0 } }
    var isDone: Bool { state.withLock { $0.isDone } }
    func finish() { state.withLock { $0.isDone = true } }
    func forget() { state.withLock { $0.dictionaries = [:] } }
    func refuse() { state.withLock { $0.refused += 1 } }
    func answer(_ response: EncodeResponse, named: Bool) {
      state.withLock {
        $0.answered += 1
        $0.byVersion[response.version, default: 0] += 1
        $0.answeredLarge += response.granularity > residentMin ? 1 : 0
        $0.answeredNamed += named ? 1 : 0
      }
    }
    /// A version's number is its seed.
    func dictionary(_ version: UInt64) -> SparseAutoencoder {
      state.withLock { state in
        let dictionary = state.dictionaries[version] ?? SwapStormTests.dictionary(version)
        if state.dictionaries.count > 2 * SwapStormTests.versionsMax { state.dictionaries = [:] }
        state.dictionaries[version] = dictionary
        return dictionary
      }
    }
  }

  private static func dictionary(_ version: UInt64) -> SparseAutoencoder {
    .random(dModel: 16, latents: latents, rule: .topk(k: 8), seed: 7000 + version)
  }

  @Test("no request that should succeed fails, and no answer is another version's, in a swap storm")
  func storm() async throws {
    let environment = ProcessInfo.processInfo.environment
    let seconds = environment["GRANULE_STORM_SECONDS"].flatMap(Double.init) ?? 60
    let seed = environment["GRANULE_STORM_SEED"].flatMap(UInt64.init) ?? .random(in: 0 ... .max)
    print("swap storm: \(seconds) s, seed \(seed)")
    let test = try TestServer(["m": Self.dictionary(1)])
    let log = Log()
    var connected: [Client] = []
    for _ in 0..<32 { connected.append(try await test.client()) }
    let clients = connected
    let admin = try await test.admin()
    let begin = residentKiB()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (number, client) in clients.enumerated() {
        group.addTask {
          var generator = SeededGenerator(seed: seed &+ UInt64(number))
          while !log.isDone {
            try await Self.ask(client, log, seed, &generator)
          }
        }
      }
      var operations = Operations(
        admin: admin, repository: test.repository, folder: test.folder.path,
        generator: SeededGenerator(seed: seed))
      let end = ContinuousClock.now + .seconds(seconds)
      // Where other tests keep the cores busy, until there was a swap to see.
      while ContinuousClock.now < end || log.snapshot.byVersion.count < 2 {
        try await operations.next()
      }
      log.finish()
      try await group.waitForAll()
      print("swap storm: \(operations.counts.sorted { $0.key < $1.key })")
    }
    let seen = log.snapshot
    print(
      "swap storm: \(seen.answered) answered by \(seen.byVersion.count) versions, "
        + "\(seen.refused) refused as they should be")
    #expect(seen.answered > 0)
    #expect(seen.byVersion.count > 1)
    #expect(seen.answeredLarge > 0 && seen.answeredNamed > 0)

    // Nothing but what serves is left in memory.
    for version in try await admin.listModels()[0].versions where version.state == .ready {
      _ = try? await admin.unloadModel("m", version: version.version)
    }
    try await eventually("replaced versions are freed") {
      let model = try await admin.listModels()[0]
      return model.versions.allSatisfy {
        $0.version == model.servingVersion ? $0.state == .ready : $0.residentBytes == 0
      }
    }
    log.forget()
    // The server gives what it does not use back to the system after it.
    _ = try await admin.resizeModel("m", granularity: UInt32(Self.residentMin))
    let end = residentKiB()
    print("swap storm: resident \(begin) KiB before, \(end) KiB after")
    // For each error that is thrown in its process, Swift Testing keeps some 80 bytes.
    let kept = seen.refused * 80 / 1024
    if environment["GRANULE_DEEP"] != nil { #expect(end < begin + kept + 32 * 1024) }
  }

  private static func ask(
    _ client: Client, _ log: Log, _ seed: UInt64, _ generator: inout SeededGenerator
  ) async throws {
    let activations = Activations(
      tokens: Int.random(in: 0..<40, using: &generator), dModel: 16,
      seed: UInt64.random(in: 0..<1000, using: &generator))
    var request = activations.request("m")
    /// Why the server may refuse it.
    var allowed: ErrorCode?
    switch Int.random(in: 0..<5, using: &generator) {
    case 0: break
    case 1: request.granularities = [UInt32.random(in: 1...UInt32(residentMin), using: &generator)]
    case 2:
      request.granularities = [UInt32.random(in: 17...UInt32(latents), using: &generator)]
      allowed = .failedPrecondition
    case 3:
      request.granularities = [3, 9, UInt32(residentMin)]
      request.delta = true
    default:
      request.version = UInt64.random(in: 1..<8, using: &generator)
      allowed = .notFound
    }
    let response: EncodeResponse
    do {
      response = try await client.encode(request)
    } catch let error as ServerError where error.code == allowed {
      return log.refuse()
    } catch {
      Issue.record("\(request.granularities): \(error), seed \(seed)")
      throw error
    }
    let granularity = Int(response.granularity)
    if let asked = request.granularities.last { #expect(granularity == Int(asked), "seed \(seed)") }
    #expect(granularity >= residentMin || !request.granularities.isEmpty, "seed \(seed)")
    #expect(
      try response.sparseCodes()
        == activations.codes(log.dictionary(response.version), granularity),
      "version \(response.version) at \(granularity), seed \(seed)")
    log.answer(response, named: request.version != 0)
  }

  /// What an operator does, at random, one thing after the other.
  private struct Operations {
    let admin: Client
    let repository: ModelRepository
    let folder: String
    var generator: SeededGenerator
    var counts: [String: Int] = [:]

    mutating func next() async throws {
      let known = try repository.versions(of: "m")
      let newest = known.last ?? 0
      let some = known.randomElement(using: &generator) ?? 1
      let name: String
      let isFull = known.count > SwapStormTests.versionsMax
      switch isFull ? 7 : Int.random(in: 0..<8, using: &generator) {
      case 0:
        name = "publish"
        try publish(after: newest)
      case 1:
        name = "pin"
        await attempt { try await $0.loadModel("m", version: some) }
      case 2:
        name = "follow"
        await attempt { try await $0.loadModel("m") }
      case 3:
        name = "shrink"
        let size = UInt32.random(
          in: UInt32(residentMin)...UInt32(latents), using: &generator)
        await attempt { try await $0.resizeModel("m", granularity: size) }
      case 4:
        name = "grow"
        await attempt { try await $0.resizeModel("m", granularity: 0) }
      case 5:
        name = "keep beside"
        await attempt { try await $0.loadModel("m", version: some, beside: true) }
      case 6:
        name = "let go"
        await attempt { try await $0.unloadModel("m", version: some) }
      default:
        if !isFull, Bool.random(using: &generator) {
          name = "corrupt"
          try corrupt(some)
        } else {
          name = "withdraw"
          let withdrawn = "\(folder)/withdrawn-\(UUID().uuidString)"
          // Unless all are withdrawn already.
          if rename("\(repository.path)/m/\(some)", withdrawn) == 0 {
            try FileManager.default.removeItem(atPath: withdrawn)
          }
        }
      }
      counts[name, default: 0] += 1
    }

    /// The next version, and now and then one whose weights change behind the manifest's back.
    private mutating func publish(after newest: UInt64) throws {
      let files = "\(folder)/\(UUID().uuidString)"
      mkdir(files, 0o755)
      try SwapStormTests.dictionary(newest + 1).write(to: files)
      _ = try repository.publish(folder: files, name: "m")
      try FileManager.default.removeItem(atPath: files)
      if Int.random(in: 0..<4, using: &generator) == 0 { try corrupt(newest + 1) }
    }

    private mutating func corrupt(_ version: UInt64) throws {
      let path = "\(repository.path)/m/\(version)/sae_weights.safetensors"
      guard let file = FileHandle(forUpdatingAtPath: path) else { return }
      try file.seek(toOffset: try file.seekToEnd() - 100)
      try file.write(
        contentsOf: [UInt8.random(in: 0...255, using: &generator), UInt8(0x55)])
      try file.close()
    }

    /// Versions may have been withdrawn or corrupted: the server may say no, and must say so.
    private func attempt(_ change: (Client) async throws -> ModelStatus) async {
      do {
        #expect(try await change(admin).servingVersion != 0)
      } catch let error as ServerError {
        #expect([.notFound, .failedPrecondition].contains(error.code), "\(error)")
      } catch {
        Issue.record("\(error)")
      }
    }
  }

  private func residentKiB() -> Int {
    let fields = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?
      .split(separator: " ")
    return (fields?.dropFirst().first.flatMap { Int($0) } ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE)))
      / 1024
  }
}
