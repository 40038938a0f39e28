import GranuleDictionary
@testable import GranuleEngine
import GranuleRepository
import TestSupport
import Testing

/// A version of any contents.
private func version(_ number: UInt64, latents: Int = 8) -> ResidentVersion {
  try! ResidentVersion(
    version: number, .random(dModel: 4, latents: latents, rule: .topk(k: 2), seed: number),
    sha256: "", latents: latents)
}

@Suite("Which version answers") struct RegistryTests {
  private func registry() -> Registry { Registry(granularityMax: nil, limits: EngineLimits()) }

  @Test("a load that a later wish has superseded changes nothing")
  func superseded() throws {
    var registry = registry()
    registry.observe(["m": [1, 2]])
    let first = try registry.wish(.load(version: 1, beside: false), for: "m").generation
    let second = try registry.wish(.load(version: 2, beside: false), for: "m").generation
    #expect(first != second)
    #expect(throws: ServerError.self) {
      try registry.beginLoad("m", known: [1, 2], first)
    }
    #expect(throws: ServerError.self) {
      _ = try registry.serve(version(1), "m", first)
    }
    try registry.beginLoad("m", known: [1, 2], second)
    let before = try registry.serve(version(2), "m", second)
    #expect(before == nil)
    try registry.endLoad("m", isPinned: true, second)
    #expect(try registry.pin("m", version: 0, field: "encode").version == 2)
    #expect(registry.candidates("m").isEmpty, "a pinned model keeps to its version")
  }

  @Test("unloading takes effect at once, releases every version, and supersedes loads under way")
  func unload() throws {
    var registry = registry()
    registry.observe(["m": [1, 2]])
    let generation = registry.models["m"]?.generation ?? 99
    let (old, beside) = (version(1), version(2))
    _ = try registry.serve(old, "m", generation)
    try registry.keepBeside(beside, "m", generation)
    #expect(registry.isKept(old) && registry.isKept(beside))
    let released = try registry.wish(.unload(version: 0), for: "m").released
    #expect(released.contains { $0 === old } && released.contains { $0 === beside })
    #expect(!registry.isKept(old))
    #expect(throws: ServerError.self) {
      _ = try registry.serve(version(2), "m", generation)
    }
    let refusal = #expect(throws: ServerError.self) {
      try registry.pin("m", version: 0, field: "encode")
    }
    #expect(refusal?.message.contains("unloaded by request") == true)
    #expect(registry.candidates("m").isEmpty)
  }

  @Test("newer versions are candidates, the newest first; a failed one waits for its time")
  func candidates() throws {
    let folder = try TemporaryFolder()
    let stamp = ModelRepository(path: folder.path).stamp(of: "m", version: 3)
    var registry = registry()
    registry.observe(["m": [1, 2, 3], "n": []])
    #expect(registry.candidates("m") == [3, 2, 1])
    let now = ContinuousClock.now
    let isNews = (1...2).map { _ in registry.fail("m", 3, "no memory", stamp, now: now) }
    #expect(isNews == [true, false])
    func isWorthTrying(after seconds: Int) -> Bool {
      registry.isWorthTrying("m", 3, stamp: { stamp }, now: now + .seconds(seconds))
    }
    // The second failure doubled the delay of 10 seconds.
    #expect(!isWorthTrying(after: 19))
    #expect(isWorthTrying(after: 20))
    _ = try registry.serve(version(2), "m", 0)
    #expect(registry.candidates("m") == [3])
    registry.observe([:])
    #expect(registry.models["n"] == nil, "a model without a folder is forgotten …")
    #expect(try registry.pin("m", version: 2, field: "encode").version == 2, "… unless it serves")
  }
}
