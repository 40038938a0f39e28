import Foundation
import GranuleDictionary
import GranuleRepository
import GranuleTensors
import Synchronization
import TestSupport
import Testing

@Suite("The model repository")
struct PublishTests {
  let folder: TemporaryFolder
  let repository: ModelRepository

  init() throws {
    folder = try TemporaryFolder()
    repository = ModelRepository(path: "\(folder.path)/models")
  }

  /// A dictionary folder to publish, different for each seed.
  func dictionaryFolder(seed: UInt64, latents: Int = 40) throws -> String {
    let path = "\(folder.path)/dictionary-\(seed)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    try SparseAutoencoder.random(dModel: 6, latents: latents, rule: .topk(k: 4), seed: seed)
      .write(to: path)
    return path
  }

  @Test("publishes versions 1, 2, … and loads each as it was")
  func versions() throws {
    #expect(try repository.models().map(\.name) == [])
    for seed in 1...3 as ClosedRange<UInt64> {
      let version = try repository.publish(folder: dictionaryFolder(seed: seed), name: "m.1-x_Y")
      #expect(version == seed)
    }
    #expect(try repository.models().map(\.name) == ["m.1-x_Y"])
    #expect(try repository.models().map { try $0.versions.get() } == [[1, 2, 3]])
    #expect(try repository.versions(of: "m.1-x_Y") == [1, 2, 3])
    for seed in 1...3 as ClosedRange<UInt64> {
      let expected = SparseAutoencoder.random(dModel: 6, latents: 40, rule: .topk(k: 4), seed: seed)
      let loaded = try repository.load("m.1-x_Y", version: seed)
      #expect(
        Array(loaded.dictionary.encoderWeights.values) == Array(expected.encoderWeights.values))
      #expect(loaded.sha256.count == 64)
    }
    let part = try repository.load("m.1-x_Y", version: 1, latents: 10)
    #expect(part.dictionary.latents == 10 && part.latents == 40)
  }

  @Test("keeps the newest versions when told how many")
  func keep() throws {
    for seed in 1...4 as ClosedRange<UInt64> {
      _ = try repository.publish(folder: dictionaryFolder(seed: seed), name: "m", keep: 2)
    }
    #expect(try repository.versions(of: "m") == [3, 4])
  }

  @Test("never gives two publishers at once the same version")
  func concurrentPublishers() throws {
    let source = try dictionaryFolder(seed: 1)
    let published = Mutex<[UInt64]>([])
    DispatchQueue.concurrentPerform(iterations: 12) { _ in
      if let version = try? repository.publish(folder: source, name: "m") {
        published.withLock { $0.append(version) }
      }
    }
    #expect(published.withLock { $0.sorted() } == Array(1...12))
    #expect(try repository.versions(of: "m") == Array(1...12))
  }

  @Test("sees no version until its manifest is there, and sweeps what a dead publisher left")
  func abandoned() throws {
    let source = try dictionaryFolder(seed: 1)
    _ = try repository.publish(folder: source, name: "m")
    let model = "\(repository.path)/m"
    let abandoned = "\(model)/.publishing-1-1"
    try FileManager.default.copyItem(atPath: "\(model)/1", toPath: abandoned)
    try FileManager.default.removeItem(atPath: "\(abandoned)/manifest.json")
    try FileManager.default.createDirectory(atPath: "\(model)/7", withIntermediateDirectories: true)
    for name in ["0", "02", "-3", "latest", "+4"] {
      try FileManager.default.copyItem(atPath: "\(model)/1", toPath: "\(model)/\(name)")
    }
    #expect(try repository.versions(of: "m") == [1])
    #expect(try repository.publish(folder: source, name: "m") == 8)
    #expect(!FileManager.default.fileExists(atPath: abandoned))
  }

  @Test("refuses to load a version that is not what its manifest says, naming the file")
  func corruption() throws {
    _ = try repository.publish(folder: dictionaryFolder(seed: 1), name: "m")
    let version = "\(repository.path)/m/1"
    let original = try Data(contentsOf: URL(fileURLWithPath: "\(version)/sae_weights.safetensors"))
    func expectRefusal(_ damaged: Data?, file: String, naming: String) throws {
      let path = "\(version)/\(file)"
      let before = try Data(contentsOf: URL(fileURLWithPath: path))
      if let damaged {
        try damaged.write(to: URL(fileURLWithPath: path))
      } else {
        try FileManager.default.removeItem(atPath: path)
      }
      let error = #expect(throws: ModelRepositoryError.self) {
        try repository.load("m", version: 1)
      }
      #expect(
        error?.description.contains(file) == true && error?.description.contains(naming) == true)
      try before.write(to: URL(fileURLWithPath: path))
    }
    var flipped = original
    flipped[flipped.count / 2] ^= 1
    try expectRefusal(flipped, file: "sae_weights.safetensors", naming: "sha256")
    try expectRefusal(original.dropLast(), file: "sae_weights.safetensors", naming: "bytes long")
    try expectRefusal(original + [0], file: "sae_weights.safetensors", naming: "are expected")
    try expectRefusal(nil, file: "sae_weights.safetensors", naming: "No such file")
    try expectRefusal(Data("{".utf8), file: "manifest.json", naming: "JSON")
    try expectRefusal(Data("{\"format\": 2}".utf8), file: "manifest.json", naming: "format")
    try expectRefusal(
      Data("{\"format\": 1, \"files\": {\"../x\": {\"bytes\": 1, \"sha256\": \"\"}}}".utf8),
      file: "manifest.json", naming: "plain names")
    _ = try repository.load("m", version: 1)
  }

  @Test("refuses a cfg.json longer than any that is read, whatever the manifest allows")
  func longConfiguration() throws {
    _ = try repository.publish(folder: dictionaryFolder(seed: 1), name: "m")
    let limit = DictionaryFiles.configBytesMax
    let manifest =
      "{\"format\": 1, \"files\": {\"cfg.json\": {\"bytes\": \(limit + 1), \"sha256\": \"\"}}}"
    try Data(manifest.utf8).write(
      to: URL(fileURLWithPath: "\(repository.path)/m/1/manifest.json"))
    let error = #expect(throws: ModelRepositoryError.self) {
      try repository.load("m", version: 1)
    }
    #expect(
      error?.description.contains("cfg.json: is \(limit + 1) bytes long, the limit is \(limit)")
        == true)
  }

  @Test("with one folder that cannot be read still gives the others")
  func unreadableFolder() throws {
    _ = try repository.publish(folder: dictionaryFolder(seed: 1), name: "good")
    // A link that leads nowhere and to itself: reading it fails for every user, root included.
    try FileManager.default.createSymbolicLink(
      atPath: "\(repository.path)/loop", withDestinationPath: "loop")
    #expect(try repository.models().map(\.name) == ["good"])
    #expect(try repository.versions(of: "good") == [1])
  }

  @Test("says which models and versions there are when asked for another")
  func unknown() throws {
    _ = try repository.publish(folder: dictionaryFolder(seed: 1), name: "m")
    #expect(
      "\(#expect(throws: ModelRepositoryError.self) { try repository.load("m", version: 9) }!)"
        .contains("it has 1"))
    #expect(
      "\(#expect(throws: ModelRepositoryError.self) { try repository.load("n", version: 1) }!)"
        .contains("no model n"))
    for name in ["", "../m", ".m", "a/b", "ä", String(repeating: "a", count: 129)] {
      #expect(throws: ModelRepositoryError.self) { try repository.load(name, version: 1) }
      #expect(throws: ModelRepositoryError.self) {
        try repository.publish(folder: dictionaryFolder(seed: 1), name: name)
      }
    }
  }

  @Test("does not publish what cannot be loaded")
  func invalidDictionary() throws {
    let source = try dictionaryFolder(seed: 1)
    try Data("{}".utf8).write(to: URL(fileURLWithPath: "\(source)/cfg.json"))
    #expect(throws: ModelRepositoryError.self) { try repository.publish(folder: source, name: "m") }
    #expect(try repository.models().map(\.name) == [])
  }

  @Test(
    "publishes SAELens's own folders as they are",
    .enabled(if: SharedData.isPresent, "../shared/data is not there"))
  func saeLens() throws {
    for fixture in ["sae_lens_topk", "sae_lens_jumprelu", "sae_lens_tiny/standard_bf16"] {
      let source = SharedData.path("fixtures/\(fixture)")
      let version = try repository.publish(folder: source, name: "sae")
      let weights = "sae_weights.safetensors"
      #expect(
        FileManager.default.contentsEqual(
          atPath: "\(source)/\(weights)", andPath: "\(repository.path)/sae/\(version)/\(weights)"))
      _ = try repository.load("sae", version: version)
    }
  }
}
