import Foundation
import GranuleDictionary
import GranuleFiles
import TestSupport
import Testing

extension TrainTests {
  @Test(
    "refuses with 64 what would do nothing, and says what it is for",
    arguments: [
      (["--k", "6", "--target-l0", "8"], "--target-l0", "topk"),
      (["--objective", "relu", "--target-l0", "8"], "--target-l0", "relu"),
      (["--objective", "batchtopk", "--k", "6", "--bandwidth", "1"], "--bandwidth", "batchtopk"),
      (["--objective", "jumprelu", "--k", "6"], "--k", "jumprelu"),
      (["--objective", "relu", "--k", "6"], "--k", "relu"),
      (["--k", "6", "--sparsity-coefficient", "1"], "--sparsity-coefficient", "topk"),
      (["--k", "6", "--sparsity-warm-up-steps", "1"], "--sparsity-warm-up-steps", "topk"),
      (["--objective", "relu", "--sparsity-penalty", "l0"], "--sparsity-penalty", "relu"),
      (["--objective", "relu", "--initial-threshold", "1"], "--initial-threshold", "relu"),
      (["--objective", "relu", "--tanh-scale", "1"], "--tanh-scale", "relu"),
      (["--objective", "jumprelu", "--tanh-scale", "1"], "--tanh-scale", "tanh"),
      (
        ["--objective", "jumprelu", "--target-l0", "8", "--sparsity-penalty", "tanh"],
        "--sparsity-penalty", "target L0"
      ),
      (
        ["--objective", "relu", "--auxiliary-latents", "4"], "--auxiliary-latents",
        "--auxiliary-coefficient"
      ),
      (["--k", "6", "--train-core-encoders"], "--train-core-encoders", "--core"),
    ])
  func ignoredOptions(options: [String], option: String, objective: String) throws {
    let (code, _, errors) = try CommandProcess.run(arguments(options, tokens: 128, out: "a"))
    #expect(code == 64 && errors.contains(option) && errors.contains(objective), "\(errors)")
    #expect(!FileManager.default.fileExists(atPath: path("a")))
  }

  @Test("also where the objective is a file's")
  func ignoredBesideFile() throws {
    let relu = ["--objective", "relu", "--sparsity-coefficient", "0.05"]
    _ = try json(arguments(relu, tokens: 128, out: "a"))
    let again = ["train", "--config", path("a/config.json"), "--out", path("b"), "--json"]
    let (code, _, errors) = try CommandProcess.run(again + ["--k", "6"])
    #expect(code == 64 && errors.contains("--k does nothing with --objective relu"), "\(errors)")
    // A file has every option, and is no fault.
    _ = try json(again + ["--objective", "topk", "--k", "6"])
  }

  @Test("takes a file's defaults anew where what they follow from is given, and nothing else")
  func defaultsOfFile() throws {
    _ = try json([
      "train", "--activations", path("activations.npy"), "--latents", "96", "--objective", "relu",
      "--batch", "128", "--tokens", "1280", "--dead-after", "1000", "--out", path("a"), "--json",
    ])
    let more = ["--objective", "topk", "--k", "6", "--latents", "64", "--tokens", "25600"]
    _ = try json(["train", "--config", path("a/config.json"), "--out", path("b"), "--json"] + more)
    let configuration = try StrictJSON.parse(
      String(contentsOfFile: path("b/config.json"), encoding: .utf8))
    #expect(configuration["auxiliary_coefficient"]?.number == 1.0 / 32)
    #expect(configuration["learning_rate"]?.number == 2e-4 / (64.0 / 16384).squareRoot())
    #expect(configuration["granularities"] == [4, 8, 16, 32, 64])
    #expect(configuration["checkpoint_every_steps"] == 50)
    #expect(configuration["dead_after_tokens"] == 1000)
    #expect(configuration["batch_tokens"] == 128)
  }

  @Test("says in how many steps a core left too little of k, of all processes that trained")
  func floorWarning() throws {
    try FileManager.default.createDirectory(
      atPath: path("core"), withIntermediateDirectories: false)
    try SparseAutoencoder.random(dModel: 24, latents: 40, rule: .relu, seed: 71) {
      $0.core = DistilledCore(
        attributions: [Float](repeating: 1, count: 40),
        frequencies: [Float](repeating: 1, count: 40),
        selections: [Int](repeating: 1, count: 40), cycles: 1)
    }.write(to: path("core"))
    var messages: [String] = []
    for run in [
      arguments(["--k", "4", "--core", path("core")], tokens: 128 * 20, out: "a"),
      [
        "train", "--resume", "--out", path("a"), "--json",
      ],
    ] {
      let (code, _, errors) = try CommandProcess.run(run)
      #expect(code == 0, "\(errors)")
      messages.append(errors)
    }
    let floored = try String(contentsOfFile: path("a/metrics.jsonl"), encoding: .utf8)
      .split(separator: "\n").count {
        try StrictJSON.parse(String($0))["core_exceeds_k"] == .bool(true)
      }
    #expect(floored > 0)
    let warning =
      "In \(floored) steps the core alone had more than three quarters of k = 4 active latents; the "
      + "other latents got a quarter all the same, so L0 was above k there. Use a smaller core or a "
      + "larger --k to keep L0 at k.\n"
    #expect(messages == [warning, warning])
  }
}
