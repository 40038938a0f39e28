import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleRepository
import TestSupport
import Testing

@Suite("The command line", .serialized)
struct CommandLineTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  /// 10 sequences of 33 positions of sparse combinations of 40 directions, d_model 24.
  func writeActivations() throws {
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

  func trainArguments(tokens: Int, out: String) -> [String] {
    [
      "train", "--activations", path("activations.npy"), "--latents", "96", "--granularities",
      "12,48,96", "--k", "6", "--batch", "128", "--tokens", "\(tokens)", "--learning-rate", "5e-3",
      "--out", out,
    ]
  }

  @Test(
    "answers wrong usage with 64, and what cannot be done with 1, saying why",
    arguments: [
      (["train", "--out", "x"], 64, "--activations"),
      (["status", "--server", "unix:s", "--frobnicate"], 64, "--frobnicate"),
      (["encode", "--server", "unix:s", "--model", "m"], 64, "--activations"),
      (["harvest", "--model", "m", "--layer", "1,", "--text", "t", "--out", "o"], 64, "--layer"),
      (
        ["harvest", "--model", "/nowhere", "--layer", "1", "--text", "t", "--out", "o"], 1,
        "/nowhere"
      ),
      (["publish", "/nowhere", "--repository", "x", "--name", "m"], 1, "/nowhere"),
      (["evaluate", "/nowhere"], 1, "/nowhere"),
      (["inspect", "/nowhere"], 1, "/nowhere"),
      (["bench", "encode", "--latents", "64"], 64, "granule-bench encode --latents 64"),
      (["serve", "--repository", "/nowhere", "--listen", "127.0.0.1:0"], 1, "/nowhere"),
      (["status", "--server", "unix:/nowhere/socket"], 1, "/nowhere/socket"),
    ])
  func exitCodes(arguments: [String], code: Int, naming: String) throws {
    let command = try CommandProcess(arguments)
    var errors = ""
    while case let more = command.nextErrors(), !more.isEmpty { errors += more }
    command.process.waitUntilExit()
    #expect(Int(command.process.terminationStatus) == code)
    #expect(errors.contains(naming), "\(errors)")
  }

  @Test("harvests a language model's activations, and trains on them")
  func harvest() throws {
    try Data(TinyLlama.gguf(seed: 2).bytes()).write(to: URL(fileURLWithPath: path("model.gguf")))
    let text = TinyLlama.text(characters: 4000, seed: 2)
    try text.write(toFile: path("text.txt"), atomically: false, encoding: .utf8)
    let harvested = try json(
      "harvest", "--model", path("model.gguf"), "--layer", "1", "--text", path("text.txt"),
      "--context", "32", "--tokens", "2000", "--out", path("activations"), "--json")
    #expect(harvested["tokens"]?.integer == 2000)
    let (code, _, errors) = try CommandProcess.run(
      "train", "--activations", path("activations"), "--latents", "16", "--granularities", "8,16",
      "--k", "3", "--batch", "128", "--tokens", "1000", "--out", path("run"), "--json")
    #expect(code == 0, "\(errors)")
  }

  @Test(
    "goes the whole way: train, evaluate, publish, serve, encode, swap, decode, administer, stop")
  func wholeWay() throws {
    try writeActivations()
    let (trained, _, errors) = try CommandProcess.run(
      trainArguments(tokens: 30_000, out: path("run")) + ["--json"])
    #expect(trained == 0, "\(errors)")
    let evaluation = try json("evaluate", path("run"), "--json")
    let rows = try #require(evaluation["rows"]?.elements)
    let asTrained = rows.filter { $0["sparsity"]?.string == "as-trained" }
    let fvu = asTrained.compactMap { $0["fvu"]?.number }
    #expect(fvu.count == 3 && fvu[0] > fvu[1] && fvu[1] > fvu[2])
    let publish = ["publish", path("run"), "--repository", path("models"), "--name", "m", "--json"]
    #expect(try json(publish)["version"] == 1)

    let server = try CommandProcess([
      "serve", "--repository", path("models"), "--listen", "127.0.0.1:0", "--admin-listen",
      "unix:\(path("admin"))",
    ])
    let ready = server.nextOutput()
    let address = try #require(ready.split(separator: " ").first { $0.hasPrefix("127.0.0.1:") })
    let encode = [
      "encode", "--server", String(address), "--model", "m", "--held-out-of", path("run"), "--json",
    ]
    let encoded = try #require(try json(encode + ["--granularities", "12,48,96"]).elements)
    #expect(encoded.compactMap { $0["granularity"]?.integer } == [12, 48, 96])
    // The server measures against the stored mean, as evaluate does beside its own.
    for (network, local) in zip(encoded, asTrained) {
      let difference =
        try #require(network["fvu"]?.number) - #require(local["fvu_stored_mean"]?.number)
      #expect(abs(difference) < 1e-4)
    }

    // The same numbers, a request going through the granularities by itself.
    let refined = try #require(
      try json(encode + ["--granularities", "12,48,96", "--refine"]).elements)
    #expect(refined.compactMap { $0["fvu"]?.number } == encoded.compactMap { $0["fvu"]?.number })
    #expect(refined.compactMap { $0["l0"]?.number } == encoded.compactMap { $0["l0"]?.number })
    let target = try #require(encoded[1]["fvu"]?.number) * 1.001
    let reached = try #require(
      try json(
        encode + [
          "--granularities", "12,48,96", "--target-fvu", "\(target)", "--batch", "10000", "--out",
          path("refined.safetensors"),
        ]
      ).elements)
    #expect(reached.compactMap { $0["granularity"]?.integer } == [12, 48])
    #expect(reached[0]["tokens_ending"] == 0 && reached[1]["tokens_ending"] == reached[0]["tokens"])
    #expect(FileManager.default.fileExists(atPath: path("refined.safetensors")))

    #expect(try json(publish + ["--granularity", "48"])["version"] == 2)
    var version: Int?
    let deadline = Date().addingTimeInterval(60)
    while version != 2, Date() < deadline {
      version = try json(encode + ["--out", path("codes.safetensors")])
        .elements?.first?["version"]?.integer
    }
    #expect(version == 2)
    let admin = "unix:\(path("admin"))"
    func decode(_ codes: String) throws -> (code: Int32, output: String, errors: String) {
      try CommandProcess.run(
        "decode", "--server", String(address), "--model", "m", "--codes", path(codes), "--out",
        path("reconstructions.safetensors"))
    }
    let decoded = try decode("codes.safetensors")
    #expect(decoded.code == 0, "\(decoded.errors)")
    // Codes of the version before are decoded by it, or not at all.
    let refused = try decode("refined.safetensors")
    #expect(refused.code == 1 && refused.errors.contains("--version 1 --beside"))
    #expect(
      try CommandProcess.run("load", "m", "--version", "1", "--beside", "--admin", admin).code == 0)
    let decodedBeside = try decode("refined.safetensors")
    #expect(decodedBeside.code == 0 && decodedBeside.output.contains("version 1"))

    #expect(
      try CommandProcess.run("resize", "m", "--granularity", "12", "--admin", admin).code == 0)
    #expect(try CommandProcess.run(encode + ["--granularities", "48"]).code == 1)
    #expect(try CommandProcess.run("load", "m", "--version", "1", "--admin", admin).code == 0)
    #expect(try CommandProcess.run("unload", "m", "--admin", admin).code == 0)
    #expect(try CommandProcess.run(encode).code == 1)
    #expect(try CommandProcess.run("load", "m", "--admin", String(address)).code == 1)
    #expect(try CommandProcess.run("status", "--server", String(address)).code == 0)
    _ = try CommandProcess.run("load", "m", "--admin", admin)
    let (measured, figures, failure) = try CommandProcess.run(
      [
        "serve", "--server", String(address), "--model", "m", "--tokens", "8", "--loads", "0.5,2",
        "--seconds", "0.2", "--min-granularity", "12", "--plot", path("load.svg"), "--json",
      ], program: "granule-bench")
    #expect(measured == 0, "\(failure)")
    let loads = try StrictJSON.parse(figures)
    #expect(
      loads.elements?.compactMap { $0["min_granularity"]?.integer ?? 0 } == [0, 0, 12, 12])
    #expect(try String(contentsOfFile: path("load.svg"), encoding: .utf8).contains("p99"))
    #expect(loads.elements?.allSatisfy { $0["answered"]?.integer ?? 0 > 0 } == true)
    #expect(server.end(SIGTERM) == 0)
  }

  @Test("trains until Ctrl-C, exits with 130, and goes on with --resume")
  func interruption() throws {
    try writeActivations()
    let long = 100_000_000
    for resume in [false, true] {
      let arguments =
        resume
        ? ["train", "--resume", "--out", path("run")]
        : trainArguments(tokens: long, out: path("run"))
      let training = try CommandProcess(arguments)
      // The first line of progress says that it has begun.
      #expect(training.nextErrors().contains("step"))
      #expect(training.end(SIGINT) == 130)
      let checkpoints = try FileManager.default.contentsOfDirectory(atPath: path("run/checkpoints"))
      #expect(!checkpoints.isEmpty)
    }
    let (code, _, errors) = try CommandProcess.run(
      trainArguments(tokens: long, out: path("run")))
    #expect(code == 1 && errors.contains("--resume"))
  }

  @Test("says so when the disk is full, and harms nothing that was published")
  func diskFull() throws {
    try FileManager.default.createDirectory(
      atPath: path("dictionary"), withIntermediateDirectories: true)
    try SparseAutoencoder.random(dModel: 64, latents: 512, rule: .topk(k: 8), seed: 1)
      .write(to: path("dictionary"))
    let repository = ModelRepository(path: path("models"))
    _ = try repository.publish(folder: path("dictionary"), name: "m")
    // Files limited to 64 KiB stand for a disk without room: writing fails in the middle.
    let command = CommandProcess.path
    let shell = Process()
    shell.executableURL = URL(fileURLWithPath: "/bin/sh")
    shell.arguments = [
      "-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"", command, "publish",
      path("dictionary"), "--repository", path("models"), "--name", "m",
    ]
    let errors = Pipe()
    shell.standardError = errors
    try shell.run()
    let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    shell.waitUntilExit()
    #expect(shell.terminationStatus == 1 && text.contains("File too large"), "\(text)")
    #expect(try repository.versions(of: "m") == [1])
    _ = try repository.load("m", version: 1)
    let left = try FileManager.default.contentsOfDirectory(atPath: path("models/m"))
    #expect(left == ["1"])
  }

  @Test("leaves a repository valid wherever publishing is killed")
  func killedPublisher() throws {
    let source = path("dictionary")
    try FileManager.default.createDirectory(atPath: source, withIntermediateDirectories: true)
    try SparseAutoencoder.random(dModel: 256, latents: 8192, rule: .topk(k: 8), seed: 1)
      .write(to: source)
    let repository = ModelRepository(path: path("models"))
    // Killed with its hidden folder empty, while it writes the weights, and before the manifest.
    for files in [[], ["cfg.json"], ["cfg.json", "sae_weights.safetensors"]] {
      var killed = 0
      for _ in 0..<100 where killed < 3 {
        let before = try repository.versions(of: "m")
        let left = try killPublisher(of: source, to: repository, holding: files)
        let after = try repository.versions(of: "m")
        if let left {
          #expect(after == before, "of \(left)")
          if left.filter({ !$0.hasPrefix(".") }) == files { killed += 1 }
        }
        for version in after {
          #expect(throws: Never.self) { try repository.load("m", version: version) }
        }
        try repository.prune("m", keep: 1)
      }
      #expect(killed == 3, "kills while the hidden folder held \(files)")
    }
    let before = try repository.versions(of: "m").last ?? 0
    #expect(try repository.publish(folder: source, name: "m") == before + 1)
    let left = try FileManager.default.contentsOfDirectory(atPath: path("models/m"))
    #expect(left.allSatisfy { !$0.hasPrefix(".") }, "abandoned folders are swept: \(left)")
  }

  /// Kills a publisher once its hidden folder holds these files.
  ///
  /// - Returns: what the hidden folder holds; nil if it has been renamed, so that the kill came too
  ///   late.
  private func killPublisher(
    of source: String, to repository: ModelRepository, holding files: [String]
  ) throws -> [String]? {
    let model = "\(repository.path)/m"
    let publisher = try CommandProcess([
      "publish", source, "--repository", repository.path, "--name", "m",
    ])
    let prefix = ".publishing-\(publisher.process.processIdentifier)-"
    var hidden: String?
    func holds() -> Bool {
      if hidden == nil {
        hidden = (try? FileManager.default.contentsOfDirectory(atPath: model))?
          .first { $0.hasPrefix(prefix) }.map { "\(model)/\($0)" }
      }
      guard let hidden else { return false }
      return files.allSatisfy { FileManager.default.fileExists(atPath: "\(hidden)/\($0)") }
    }
    // Shorter pauses than `eventually` takes: publishing itself takes some milliseconds.
    while !holds(), publisher.process.isRunning { sleep(for: .microseconds(100)) }
    _ = publisher.end(SIGKILL)
    return hidden.flatMap { try? FileManager.default.contentsOfDirectory(atPath: $0).sorted() }
  }

  func json(_ arguments: [String]) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(arguments)
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  func json(_ arguments: String...) throws -> JSONValue { try json(arguments) }
}
