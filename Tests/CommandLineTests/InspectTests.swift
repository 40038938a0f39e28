import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleRepository
import TestSupport
import Testing

@Suite("inspect")
struct InspectTests {
  let folder: TemporaryFolder
  var dictionary: String { "\(folder.path)/dictionary" }

  init() throws {
    folder = try TemporaryFolder()
    try FileManager.default.createDirectory(
      atPath: dictionary, withIntermediateDirectories: false)
    try SparseAutoencoder.random(dModel: 48, latents: 256, rule: .topk(k: 8), seed: 5) { parts in
      parts.granularities = [
        Granularity(latents: 64, k: 5, l0: 5, fvu: 0.25), Granularity(latents: 256, k: 8),
      ]
      parts.activationDeviation = [Float](repeating: 1, count: 48)
      parts.provenance.languageModel = "tiny-llama"
      parts.provenance.tokens = 1000
    }.write(to: dictionary)
  }

  func json(_ path: String) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run("inspect", path, "--json")
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  @Test("tells what a dictionary folder holds, and its memory by part")
  func dictionaryFolder() throws {
    let shown = try json(dictionary)
    #expect(shown["architecture"] == "topk")
    #expect(shown["d_model"] == 48 && shown["latents"] == 256)
    #expect(shown["selection_rule"]?["k"] == 8)
    #expect(shown["input_normalization"] == "none")
    let granularities = try #require(shown["granularities"]?.elements)
    #expect(granularities.map { $0["latents"] } == [64, 256])
    #expect(granularities.map { $0["k"] } == [5, 8])
    #expect(granularities.map { $0["fvu"]?.number } == [0.25, nil])
    #expect(shown["provenance"]?["language_model"] == "tiny-llama")
    #expect(shown["provenance"]?["tokens"] == 1000)
    #expect(
      shown["companion_tensors"]?.elements?.compactMap { $0["name"]?.string }.sorted()
        == ["activation_deviation", "activation_mean"])
    let bytes = try #require(shown["resident_bytes"])
    #expect(bytes["encoder"]?.integer == 4 * (48 * 256 + 256))
    let quantized = try #require(bytes["quantized_encoder"]?.integer)
    #expect(quantized >= 48 * 256)
    let share = try #require(shown["quantized_share_of_encoder"]?.number)
    #expect(abs(share - Double(quantized) / Double(4 * (48 * 256 + 256))) < 1e-9)
    #expect(shown["sha256"] == .null)

    let (code, text, _) = try CommandProcess.run("inspect", dictionary)
    #expect(code == 0)
    for expected in ["topk", "tiny-llama", "activation_mean [48]", "0.2500", "encoder, 8 bits"] {
      #expect(text.contains(expected), "\(expected) is missing in:\n\(text)")
    }
  }

  @Test("verifies a published version, and asks for one where only the model is named")
  func published() throws {
    let repository = ModelRepository(path: "\(folder.path)/models")
    _ = try repository.publish(folder: dictionary, name: "m")
    #expect(try json("\(repository.path)/m/1")["sha256"]?.string?.count == 64)

    let (unclear, _, hint) = try CommandProcess.run("inspect", "\(repository.path)/m")
    #expect(unclear == 1 && hint.contains("m/1"), "\(hint)")

    let weights = "\(repository.path)/m/1/\(DictionaryFiles.weightsName)"
    var bytes = try Data(contentsOf: URL(fileURLWithPath: weights))
    bytes[bytes.count - 1] ^= 1
    try FileManager.default.removeItem(atPath: weights)
    try bytes.write(to: URL(fileURLWithPath: weights))
    let (damaged, _, errors) = try CommandProcess.run("inspect", "\(repository.path)/m/1")
    #expect(damaged == 1 && errors.contains(DictionaryFiles.weightsName), "\(errors)")
  }
}
