import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleRepository
import TestSupport
import Testing

@Suite("distill", .serialized)
struct DistillTests {
  let folder: TemporaryFolder

  init() throws {
    folder = try TemporaryFolder()
    try Data(TinyLlama.gguf(seed: 7).bytes()).write(to: URL(fileURLWithPath: path("model.gguf")))
    try TinyLlama.text(characters: 9000, seed: 1)
      .write(toFile: path("text.txt"), atomically: false, encoding: .utf8)
    let (code, _, errors) = try CommandProcess.run(
      "harvest", "--model", path("model.gguf"), "--layer", "1", "--text", path("text.txt"),
      "--context", "24", "--type", "float32", "--out", path("activations"), "--json")
    #expect(code == 0, "\(errors)")
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  func arguments(tokens: Int, out: String) -> [String] {
    [
      "distill", "--activations", path("activations/layer-1"), "--model", path("model.gguf"),
      "--latents", "60", "--granularities", "10,24,60", "--k", "6", "--batch", "100", "--tokens",
      "\(tokens)", "--learning-rate", "5e-3", "--cycles", "3", "--coverage", "0.8",
      "--attribution-tokens", "600", "--out", path(out), "--json",
    ]
  }

  func json(_ arguments: [String]) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(arguments)
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  func bytes(_ name: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: path(name)))
  }

  @Test("finds a core that is inspected, trained with at another k and size, and published")
  func core() throws {
    let found = try json(arguments(tokens: 4000, out: "out"))
    let cycles = try #require(found["cycles"]?.elements)
    #expect(cycles.count == 3)
    let core = try #require(found["core_latents"]?.integer)
    #expect(found["core"]?.string == path("out/core"))

    let inspected = try json(["inspect", path("out/core"), "--json"])
    #expect(inspected["latents"]?.integer == core && inspected["core"]?["cycles"] == 3)
    let latents = try #require(inspected["core"]?["latents"]?.elements)
    #expect(latents.count == core)
    #expect(latents.map { $0["selections"] } == found["selections"]?.elements)
    #expect(latents.allSatisfy { ($0["attribution"]?.number ?? 0) > 0 })
    let (code, text, _) = try CommandProcess.run("inspect", path("out/core"))
    #expect(code == 0 && text.contains("attribution") && text.contains("after 3 cycles"))

    // The core's own folder, the distillation's, and a run that began with it, all name the core.
    for (name, k, latents, source) in [
      ("sparser", 4, 60, "out/core"), ("smaller", 6, 40, "out"), ("again", 6, 60, "sparser"),
    ] {
      _ = try json([
        "train", "--activations", path("activations/layer-1"), "--latents", "\(latents)",
        "--granularities", "8,\(latents)", "--k", "\(k)", "--tokens", "3000", "--batch", "100",
        "--core", path(source), "--out", path(name), "--json",
      ])
      let shown = try json(["inspect", path(name), "--json"])
      #expect(
        shown["granularities"]?.elements?.map { $0["latents"] }
          == [JSONValue(core), JSONValue(core + 8), JSONValue(latents)])
      #expect(shown["architecture"] == "jumprelu")
      #expect(shown["core"]?["latents"]?.elements?.count == core)
      _ = try json(["publish", path(name), "--repository", path("models"), "--name", "m", "--json"])
    }
    _ = try json([
      "publish", path("out/core"), "--repository", path("models"), "--name", "m", "--json",
    ])
    let published = try json(["inspect", path("models/m/4"), "--json"])
    #expect(published["core"] == inspected["core"])

    let overlap = try json([
      "overlap", path("sparser"), path("out/core"), "--pool", path("smaller"), "--json",
    ])
    #expect(overlap["latents"]?.elements == [60, JSONValue(core)])
    #expect((overlap["second"]?["share_at_least_0.9"]?.number ?? 0) * 60 >= Double(core) - 0.01)
  }

  @Test("shows each cycle, warns where a core alone is above k, and ends with a table")
  func text() throws {
    var arguments = arguments(tokens: 2000, out: "out").filter { $0 != "--json" }
    for (option, value) in [
      ("--k", "2"), ("--coverage", "1"), ("--granularities", "10,24,59,60"),
    ] {
      let place = try #require(arguments.firstIndex(of: option))
      arguments[place + 1] = value
    }
    let (code, output, errors) = try CommandProcess.run(arguments)
    #expect(code == 0, "\(errors)")
    for cycle in 1...3 { #expect(errors.contains("Cycle \(cycle): ")) }
    #expect(
      errors.contains(
        "Granularities 59 are left out: with the core added they would not be below 60."))
    // The first begins without a core.
    #expect(!errors.contains("of cycle 1's steps"))
    #expect(errors.contains("of cycle 2's steps the core alone had more than three quarters of k"))
    let lines = output.split(separator: "\n")
    let heading = try #require(lines.firstIndex { $0.hasPrefix("cycle") })
    #expect(lines[heading].contains("innermost FVU"))
    // A rule, and a row for each cycle.
    #expect(
      ["1", "2", "3"] == lines[(heading + 2)...].prefix(3).map { $0.drop { $0 == " " }.prefix(1) })
    #expect(lines.last?.hasPrefix("The core, ") == true, "\(output)")
  }

  @Test("killed again and again at random moments, ends with the very bits of one that was not")
  func killed() throws {
    let tokens = 20_000
    _ = try json(arguments(tokens: tokens, out: "whole") + ["--checkpoint-every", "9"])
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    var kills = 0
    while !FileManager.default.fileExists(atPath: path("part/core/cfg.json")) {
      let hasBegun = FileManager.default.fileExists(atPath: path("part/distillation.json"))
      let command = try CommandProcess(
        hasBegun
          ? ["distill", "--resume", "--out", path("part"), "--json"]
          : arguments(tokens: tokens, out: "part") + ["--checkpoint-every", "9"])
      let time = Duration.seconds(Double.random(in: 0.02..<0.5, using: &generator))
      // After 12 kills one may end by itself.
      let isLast = kills >= 12
      try command.wait(atMost: isLast ? nil : time)
      if isLast, command.process.terminationStatus != 0 {
        Issue.record("seed \(seed): \(command.nextErrors())")
        return
      }
      _ = command.end(SIGKILL)
      kills += 1
    }
    for name in ["core", "cycle-3/dictionary"] {
      let isSame =
        try bytes("part/\(name)/sae_weights.safetensors")
        == bytes("whole/\(name)/sae_weights.safetensors")
      #expect(isSame, "\(name), seed \(seed)")
    }
  }

  @Test("publishes each cycle's dictionary to a server under load, and no request fails")
  func hot() throws {
    _ = try json([
      "train", "--activations", path("activations/layer-1"), "--latents", "60", "--k", "6",
      "--tokens", "1000", "--batch", "100", "--out", path("first"), "--json",
    ])
    _ = try json([
      "publish", path("first"), "--repository", path("models"), "--name", "m", "--json",
    ])
    let server = try CommandProcess([
      "serve", "--repository", path("models"), "--listen", "unix:\(path("socket"))",
      "--admin-listen", "unix:\(path("admin"))",
    ])
    #expect(server.nextOutput().contains("serving"), "\(server.nextErrors())")
    let distill = try CommandProcess(
      arguments(tokens: 20_000, out: "out") + [
        "--repository", path("models"), "--publish", "m",
      ])
    // Requests until it has ended, and until the server has the last version.
    var isSwapped = false
    var rounds = 0
    while distill.process.isRunning || !isSwapped {
      let (code, _, errors) = try CommandProcess.run(
        "encode", "--server", "unix:\(path("socket"))", "--model", "m", "--held-out-of",
        path("first"), "--granularities", "10,24,60", "--repeat", "20", "--out",
        path("codes.safetensors"), "--json")
      #expect(code == 0, "\(errors)")
      let models = try json(["models", "--server", "unix:\(path("socket"))", "--json"])
      isSwapped = models.elements?.first?["serving_version"] == 4
      rounds += 1
      guard code == 0, rounds < 2000 else { break }
    }
    #expect(isSwapped && distill.process.terminationStatus == 0, "\(distill.nextErrors())")
    #expect(try ModelRepository(path: path("models")).versions(of: "m") == [1, 2, 3, 4])
    for cycle in 1...3 {
      let report = try StrictJSON.parse(
        String(contentsOfFile: path("out/cycle-\(cycle)/cycle.json"), encoding: .utf8))
      #expect(report["published_version"]?.integer == cycle + 1)
    }
    #expect(server.end(SIGTERM) == 0)
  }

  @Test("another run's options do not say where the activations of this one are from")
  func optionsOfAnotherLayer() throws {
    _ = try json([
      "harvest", "--model", path("model.gguf"), "--layer", "0", "--text", path("text.txt"),
      "--context", "24", "--out", path("before"), "--json",
    ])
    let size = ["--latents", "16", "--k", "4", "--tokens", "200", "--batch", "100", "--json"]
    _ = try json(["train", "--activations", path("before"), "--out", path("first")] + size)
    _ = try json([
      "train", "--config", path("first/config.json"), "--activations", path("activations"), "--out",
      path("second"), "--json",
    ])
    let provenance = try ["first", "second"].map {
      try StrictJSON.parse(String(contentsOfFile: path("\($0)/config.json"), encoding: .utf8))[
        "hook"]
    }
    #expect(provenance == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"])

    let (code, _, errors) = try CommandProcess.run(
      arguments(tokens: 1000, out: "unfinished") + ["--core", path("first")])
    #expect(code == 1 && errors.contains("has no core"), "\(errors)")
  }

  @Test("says what is wrong before anything is written")
  func refusals() throws {
    let start = arguments(tokens: 1000, out: "refused")
    for (arguments, code, fault) in [
      (start + ["--coverage", "1.5"], 1, "coverage is 1.5"),
      (start + ["--core", path("activations")], 1, "cfg.json"),
      (start + ["--core-rule", "votes"], 64, "votes:N"),
      (start + ["--publish", "m"], 64, "--repository"),
      (start + ["--objective", "topk"], 1, "batchtopk"),
      (start + ["--aggregation", "mean-abs", "--quantile", "0.5"], 64, "--quantile"),
      (["distill", "--out", path("refused")], 64, "--activations"),
      (["distill", "--resume", "--out", path("refused"), "--cycles", "2"], 64, "--cycles"),
      (["distill", "--resume", "--out", path("refused")], 1, "distillation.json"),
    ] {
      let (got, _, errors) = try CommandProcess.run(arguments)
      #expect(Int(got) == code && errors.contains(fault), "\(arguments): \(errors)")
      #expect(!FileManager.default.fileExists(atPath: path("refused")))
    }
  }
}
