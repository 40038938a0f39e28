import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleRepository
import TestSupport
import Testing

@Suite("Training from the command line", .serialized)
struct TrainTests {
  let folder: TemporaryFolder

  /// 10 sequences of 33 positions of sparse combinations of 40 directions, d_model 24.
  init() throws {
    folder = try TemporaryFolder()
    var generator = SeededGenerator(seed: 3)
    let directions = (0..<40).map { _ in generator.normals(24) }
    var values: [Float] = []
    for _ in 0..<330 {
      var x = [Float](repeating: 1, count: 24)
      for _ in 0..<3 {
        let direction = directions[Int.random(in: 0..<40, using: &generator)]
        for i in 0..<24 { x[i] += 2 * direction[i] }
      }
      values += x
    }
    try writeNumpy(values, shape: [10, 33, 24], to: path("activations.npy"))
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  static let objectives: [[String]] = [
    ["--k", "6"],
    ["--objective", "batchtopk", "--k", "6", "--sample-granularities", "4"],
    [
      "--objective", "jumprelu", "--target-l0", "8", "--sparsity-coefficient", "0.1",
      "--bandwidth", "1",
    ],
    ["--objective", "relu", "--sparsity-coefficient", "0.05"],
  ]

  func arguments(_ objective: [String], tokens: Int, out: String) -> [String] {
    [
      "train", "--activations", path("activations.npy"), "--latents", "96", "--granularities",
      "12,48,96", "--batch", "128", "--tokens", "\(tokens)", "--learning-rate", "5e-3", "--out",
      path(out), "--json",
    ] + objective
  }

  func weights(_ run: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: path("\(run)/dictionary/sae_weights.safetensors")))
  }

  func json(_ arguments: [String]) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(arguments)
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  @Test(
    "killed again and again at random moments, ends with the very bits of a run that was not",
    arguments: objectives)
  func killed(objective: [String]) throws {
    let tokens = 128 * 250
    let more = ["--checkpoint-every", "9"]
    _ = try json(arguments(objective, tokens: tokens, out: "whole") + more)
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    var resumed: Set<String> = []
    var isDone = false
    while !isDone {
      let hasBegun = FileManager.default.fileExists(atPath: path("part/config.json"))
      let training = try CommandProcess(
        hasBegun
          ? ["train", "--resume", "--out", path("part"), "--json"]
          : arguments(objective, tokens: tokens, out: "part") + more)
      let time = Duration.seconds(Double.random(in: 0.02..<0.4, using: &generator))
      // After six different sets of checkpoints one may end by itself.
      let isLast = resumed.count >= 6
      try training.wait(atMost: isLast ? nil : time)
      _ = training.end(SIGKILL)
      isDone = FileManager.default.fileExists(
        atPath: path("part/dictionary/sae_weights.safetensors"))
      let checkpoints =
        (try? FileManager.default.contentsOfDirectory(atPath: path("part/checkpoints"))) ?? []
      resumed.insert(checkpoints.filter { !$0.hasPrefix(".") }.sorted().joined(separator: " "))
    }
    let isSame = try weights("part") == weights("whole")
    #expect(isSame, "seed \(seed), checkpoints \(resumed)")
  }

  @Test("with a full disk says so, and loses nothing: freed, it goes on to the same bits")
  func diskFull() throws {
    let tokens = 128 * 200
    _ = try json(arguments(["--k", "6"], tokens: tokens, out: "whole"))
    let begun = try CommandProcess(
      arguments(["--k", "6"], tokens: tokens, out: "part") + ["--checkpoint-every", "5"])
    let checkpoints = path("part/checkpoints")
    func complete() -> [String] {
      let names = (try? FileManager.default.contentsOfDirectory(atPath: checkpoints)) ?? []
      return names.filter { $0.hasPrefix("step-") }.sorted()
    }
    try blockUntil("a checkpoint is complete") { !complete().isEmpty || !begun.process.isRunning }
    #expect(begun.end(SIGKILL) == SIGKILL, "it was to be ended amidst of it")
    let before = complete()

    // Files limited to 32 KiB, less than a checkpoint, stand for a disk without room.
    let shell = Process()
    shell.executableURL = URL(fileURLWithPath: "/bin/sh")
    shell.arguments = [
      "-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", CommandProcess.path, "train",
      "--resume", "--out", path("part"), "--json",
    ]
    let errors = Pipe()
    shell.standardError = errors
    shell.standardOutput = FileHandle.nullDevice
    try shell.run()
    let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    shell.waitUntilExit()
    #expect(shell.terminationStatus == 1 && text.contains("File too large"), "\(text)")
    #expect(complete() == before)

    _ = try json(["train", "--resume", "--out", path("part"), "--json"])
    let isSame = try weights("part") == weights("whole")
    #expect(isSame)
  }

  @Test("each objective's dictionary is published and served", arguments: objectives)
  func served(objective: [String]) throws {
    let trained = try json(arguments(objective, tokens: 128 * 300, out: "run"))
    let fvu = try #require(trained["granularities"]?.elements).compactMap { $0["fvu"]?.number }
    #expect(fvu.count == 3 && fvu[2] < 0.5, "\(fvu)")
    let dictionary = try SparseAutoencoder(folder: path("run/dictionary"))
    let rules = ["batchtopk": "threshold", "jumprelu": "threshold", "relu": "relu"]
    #expect(dictionary.selectionRule.name == rules[objective[1]] ?? "topk")
    _ = try CommandProcess.run(
      "publish", path("run"), "--repository", path("models"), "--name", "m")
    let server = try CommandProcess([
      "serve", "--repository", path("models"), "--listen", "unix:\(path("socket"))",
    ])
    #expect(server.nextOutput().contains("serving"))
    let encoded = try json([
      "encode", "--server", "unix:\(path("socket"))", "--model", "m", "--held-out-of", path("run"),
      "--granularities", "12,48,96", "--json",
    ])
    let evaluated = try json(["evaluate", path("run"), "--json"])
    let local = try #require(evaluated["rows"]?.elements)
    for row in try #require(encoded.elements) {
      let same = local.first {
        $0["granularity"]?.integer == row["granularity"]?.integer
          && $0["sparsity"]?.string != "fixed-ratio"
      }
      let difference = try #require(row["fvu"]?.number) - #require(same?["fvu_stored_mean"]?.number)
      #expect(abs(difference) < 1e-4)
    }
    #expect(server.end(SIGTERM) == 0)
  }

  @Test("takes options from a file, those of the command line first, and saves the whole of them")
  func configurationFile() throws {
    _ = try json(arguments(["--k", "6", "--seed", "5"], tokens: 1280, out: "first"))
    _ = try json([
      "train", "--config", path("first/config.json"), "--objective", "batchtopk", "--out",
      path("second"), "--json",
    ])
    let first = try StrictJSON.parse(
      String(contentsOfFile: path("first/config.json"), encoding: .utf8))
    let second = try StrictJSON.parse(
      String(contentsOfFile: path("second/config.json"), encoding: .utf8))
    #expect(first["objective"] == "topk" && second["objective"] == "batchtopk")
    #expect(second["seed"] == 5 && second["k"] == 6)
    for member in try #require(first.members) where member.key != "objective" {
      #expect(second[member.key] == member.value)
    }
    for (text, naming) in [
      ("{\"latents\": 96, \"latnets\": 96}", "latnets"), ("{\"latents\": 4.5}", "latents"),
      ("[]", "object"), ("{", "JSON"), ("{\"latents\": 96, \"k\": 6}", "tokens"),
      ("{\"latents\": 96, \"k\": 6, \"tokens\": 10, \"objective\": \"top\"}", "objective"),
    ] {
      try text.write(toFile: path("bad.json"), atomically: true, encoding: .utf8)
      let (code, _, errors) = try CommandProcess.run(
        "train", "--config", path("bad.json"), "--out", path("third"))
      #expect(code == 1 && errors.contains(naming), "\(errors)")
    }
    let (code, _, errors) = try CommandProcess.run(
      "train", "--resume", "--out", path("first"), "--tokens", "5", "--seed", "1")
    #expect(code == 64 && errors.contains("--tokens") && errors.contains("--seed"))
  }
}
