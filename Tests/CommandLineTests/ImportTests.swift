import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite("import", .serialized)
struct ImportTests {
  static let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("InterchangeTests/Fixtures").path
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }
  func fixture(_ name: String) -> String { "\(Self.fixtures)/\(name)" }
  func names() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
  }

  func json(_ arguments: String...) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(arguments + ["--json"])
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  @Test("says what it recognised and what each setting became")
  func account() throws {
    let (code, output, errors) = try CommandProcess.run(
      "import", fixture("sae_lens_tiny/topk_layer_norm"), "--out", path("a"))
    #expect(code == 0, "\(errors)")
    for part in ["saelens", "d_model 16, 64 latents", "layer_norm", "8 largest", "decoder_norm"] {
      #expect(output.contains(part), "\(output)")
    }
    let imported = try json(
      "import", fixture("gemma_scope/params.npz"), "--granularities", "16,64", "--out", path("b"))
    #expect(imported["format"] == "gemma-scope")
    #expect(imported["granularities"]?.elements?.map { $0["latents"] } == [16, 64])
    #expect(imported["settings"]?["b_dec"] == "added to outputs only")
    #expect(try json("inspect", path("b"))["subtracts_decoder_bias"] == false)
    let forced = try json(
      "import", fixture("dictionary_learning_tiny/topk"), "--format", "dictionary-learning",
      "--out", path("c"))
    #expect(forced["selection_rule"] == "topk")
  }

  @Test("becomes a progressive coder: ordered, evaluated, exported")
  func wholeWay() throws {
    // A dictionary whose encoder is its decoder, and activations of its last eight latents alone.
    let tied = SparseAutoencoder.random(dModel: 16, latents: 64, rule: .topk(k: 2), seed: 1) {
      $0.encoderWeights = $0.decoderWeights
      $0.encoderBias = FloatStorage(count: 64)
    }
    try tied.write(newFolder: path("tied"))
    _ = try json("export", path("tied"), "--to", "sparsify", "--out", path("foreign"))
    _ = try json("import", path("foreign"), "--out", path("plain"))
    var generator = SeededGenerator(seed: 2)
    var rows: [Float] = []
    for token in 0..<500 {
      let latent = 56 + token % 8
      let value = 4 + generator.normal().magnitude
      for i in 0..<16 {
        rows.append(
          tied.decoderBias.array[i] + value * tied.decoderWeights.values[latent * 16 + i])
      }
    }
    try writeNumpy(rows, shape: [500, 16], to: path("x.npy"))
    _ = try json(
      "order", path("plain"), "--activations", path("x.npy"), "--granularities", "8,16,64", "--out",
      path("ordered"))
    func errors(_ name: String) throws -> [Double] {
      let rows = try json(
        "evaluate", path(name), "--activations", path("x.npy"), "--granularities", "8,16,64",
        "--rsa-samples", "0")["rows"]
      return try #require(rows?.elements).filter { $0["sparsity"] == "as-trained" }
        .compactMap { $0["fvu"]?.number }
    }
    let (before, after) = (try errors("plain"), try errors("ordered"))
    #expect(before.count == 3 && after.count == 3)
    #expect(after[0] < before[0] && after[1] < before[1])
    #expect(abs(after[2] - before[2]) < 1e-6)

    _ = try json("export", path("ordered"), "--to", "sparsify", "--out", path("sparsify"))
    let back = try json("import", path("sparsify"), "--out", path("back"))
    #expect(back["format"] == "sparsify")
    let (ordered, again) = (
      try SparseAutoencoder(folder: path("ordered")), try SparseAutoencoder(folder: path("back"))
    )
    let same =
      ordered.encoderWeights.array == again.encoderWeights.array
      && ordered.decoderWeights.array == again.decoderWeights.array
      && ordered.encoderBias.array == again.encoderBias.array
    #expect(same && again.selectionRule == ordered.selectionRule)

    // Without b_dec subtracted; and what sparsify has no words for.
    _ = try json("import", fixture("sae_lens_tiny/topk_nobdec_in"), "--out", path("plain2"))
    _ = try json("export", path("plain2"), "--to", "sparsify", "--out", path("sparsify2"))
    _ = try json("import", fixture("gemma_scope"), "--out", path("gemma"))
    let (code, _, text) = try CommandProcess.run(
      "export", path("gemma"), "--to", "sparsify", "--out", path("refused"))
    #expect(code == 1 && text.contains("threshold"), "\(text)")
    #expect(!FileManager.default.fileExists(atPath: path("refused")))
  }

  @Test(
    "of what is malformed ends with 1 and writes nothing, in little memory")
  func malformed() throws {
    let all = try FileManager.default.contentsOfDirectory(atPath: fixture("malformed"))
    let malformed = all.filter { $0 != "README" && $0 != "00_good_control" }.sorted()
    #expect(malformed.count == 53)
    for name in malformed { try expectRefusal(name) }
  }

  func expectRefusal(_ name: String) throws {
    // A quarter of what the bomb inflates to is more than any of them needs beyond the program's
    // own; the shell bounds data, which is what is allocated.
    let shell = Process()
    shell.executableURL = URL(fileURLWithPath: "/bin/bash")
    shell.arguments = [
      "-c", "ulimit -d 200000; exec \"$0\" import \"$1\" --out \"$2\"", CommandProcess.path,
      fixture("malformed/\(name)"), path("out"),
    ]
    let errors = Pipe()
    shell.standardError = errors
    shell.standardOutput = FileHandle.nullDevice
    try shell.run()
    let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    shell.waitUntilExit()
    #expect(shell.terminationStatus == 1, "\(text)")
    #expect(text.contains(name), "\(text)")
    #expect(try names() == [])
  }

  @Test("refuses a folder that is there, and what it does not know")
  func refusals() throws {
    try Data("x".utf8).write(to: URL(fileURLWithPath: path("file.bin")))
    for (arguments, code, fault) in [
      (["import", fixture("gemma_scope"), "--out", folder.path], Int32(1), "is there already"),
      (["import", path("file.bin"), "--out", path("o")], 1, "--format"),
      (["import", fixture("gemma_scope"), "--format", "onnx", "--out", path("o")], 64, "onnx"),
      (
        ["import", fixture("gemma_scope"), "--granularities", "65", "--out", path("o")], 1,
        "64 latents"
      ),
      (
        ["import", fixture("gemma_scope"), "--sort-latents", "--out", path("o")], 1, "mean squares"
      ),
    ] {
      let (status, _, errors) = try CommandProcess.run(arguments)
      #expect(status == code && errors.contains(fault), "\(errors)")
    }
    #expect(try names() == ["file.bin"])
  }

  @Test("ends at Ctrl-C with 130 and leaves nothing")
  func interruption() throws {
    // Large enough that it is not over when the signal comes; zeros compress to nothing, and a file
    // with holes takes no room.
    let (dModel, latents) = (1024, 65536)
    let header = StrictJSON.text([
      "W_dec": tensor([latents, dModel], 0), "W_enc": tensor([dModel, latents], latents * dModel),
      "b_dec": tensor([dModel], 2 * latents * dModel),
      "b_enc": tensor([latents], 2 * latents * dModel + dModel),
      "threshold": tensor([latents], 2 * latents * dModel + dModel + latents),
    ])
    try FileManager.default.createDirectory(
      atPath: path("large"), withIntermediateDirectories: false)
    var bytes = Data(withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Array($0) })
    bytes += Data(header.utf8)
    let weights = URL(fileURLWithPath: path("large/params.safetensors"))
    try bytes.write(to: weights)
    let handle = try FileHandle(forWritingTo: weights)
    try handle.truncate(
      atOffset: UInt64(bytes.count + 4 * (2 * latents * dModel + dModel + 2 * latents)))
    try handle.close()
    try Data(#"{"architecture": "jump_relu"}"#.utf8).write(
      to: URL(fileURLWithPath: path("large/config.json")))
    let command = try CommandProcess(["import", path("large"), "--out", path("out")])
    #expect(command.nextErrors().contains("reading"))
    #expect(command.end(SIGINT) == 130)
    #expect(try names() == ["large"])
  }

  private func tensor(_ shape: [Int], _ start: Int) -> JSONValue {
    let end = start + shape.reduce(1, *)
    return [
      "dtype": "F32", "shape": .array(shape.map { JSONValue($0) }),
      "data_offsets": [JSONValue(4 * start), JSONValue(4 * end)],
    ]
  }
}
