import Foundation
import GranuleDictionary
import GranuleFiles
import TestSupport
import Testing

@Suite("order and export", .serialized)
struct OrderTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  func writeDictionary(dModel: Int, latents: Int) throws {
    try FileManager.default.createDirectory(
      atPath: path("plain"), withIntermediateDirectories: false)
    try SparseAutoencoder.random(dModel: dModel, latents: latents, rule: .topk(k: 6), seed: 8)
      .write(to: path("plain"))
  }

  func writeActivations(dModel: Int, tokens: Int) throws {
    var generator = SeededGenerator(seed: 9)
    // The same rows again and again: what matters is how many there are.
    let rows = generator.normals(dModel * min(tokens, 500))
    let values = (0..<dModel * tokens).map { rows[$0 % rows.count] }
    try writeNumpy(values, shape: [tokens, dModel], to: path("x.npy"))
  }

  func json(_ arguments: String...) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(arguments + ["--json"])
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  @Test(
    "orders, shows the map, orders what is ordered, and exports a prefix that evaluates as it did")
  func wholeWay() throws {
    try writeDictionary(dModel: 16, latents: 80)
    try writeActivations(dModel: 16, tokens: 400)
    let ordered = try json(
      "order", path("plain"), "--activations", path("x.npy"), "--by", "frequency", "--out",
      path("deep/once"))
    #expect(ordered["granularities"]?.elements?.map { $0["latents"] } == [5, 10, 20, 40, 80])
    let again = try json(
      "order", path("deep/once"), "--activations", path("x.npy"), "--granularities", "20,80",
      "--out", path("twice"))
    #expect(again["ordered_by"] == "mean-squared-activation")

    let shown = try json("inspect", path("twice"))
    let elements = try #require(shown["latent_order"]?.elements)
    let order = elements.compactMap { $0.integer }
    #expect(order.sorted() == Array(0..<80))
    #expect(shown["provenance"]?["ordered_by"] == "mean-squared-activation")
    let (_, text, _) = try CommandProcess.run("inspect", path("twice"))
    #expect(text.contains("latent order    \(order[0]), \(order[1])"), "\(text)")

    #expect(
      try json("export", path("twice"), "--granularity", "20", "--out", path("prefix"))["latents"]
        == 20)
    let prefix = try SparseAutoencoder(folder: path("prefix"))
    #expect(prefix.latents == 20 && prefix.latentOrder == Array(order[..<20]))
    let whole = try json(
      "evaluate", path("twice"), "--activations", path("x.npy"), "--granularities", "20",
      "--rsa-samples", "0")
    let part = try json(
      "evaluate", path("prefix"), "--activations", path("x.npy"), "--rsa-samples", "0")
    #expect(part["rows"]?.elements?[0]["fvu"] == whole["rows"]?.elements?[0]["fvu"])
  }

  @Test("refuses a folder that is there, a granularity beyond the dictionary, another d_model")
  func refusals() throws {
    try writeDictionary(dModel: 16, latents: 80)
    try writeActivations(dModel: 12, tokens: 30)
    for (arguments, fault) in [
      (["order", path("plain"), "--activations", path("x.npy"), "--out", path("plain")], "plain"),
      (
        ["order", path("plain"), "--activations", path("x.npy"), "--out", path("o")], "d_model 12"
      ),
      (["order", path("plain"), "--out", path("o")], "--activations"),
      (["export", path("plain"), "--granularity", "81", "--out", path("o")], "81"),
      (["export", path("plain"), "--granularity", "8", "--out", path("plain")], "plain"),
    ] {
      let (code, _, errors) = try CommandProcess.run(arguments)
      #expect(code == 1 && errors.contains(fault), "\(errors)")
      #expect(!FileManager.default.fileExists(atPath: path("o")))
    }
  }

  @Test("ends at Ctrl-C with 130 and leaves nothing")
  func interruption() throws {
    try writeDictionary(dModel: 32, latents: 2048)
    try writeActivations(dModel: 32, tokens: 120_000)
    let command = try CommandProcess([
      "order", path("plain"), "--activations", path("x.npy"), "--out", path("ordered"),
    ])
    #expect(command.nextErrors().contains("ordering"))
    #expect(command.end(SIGINT) == 130)
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == [
        "plain", "x.npy",
      ])
  }
}
