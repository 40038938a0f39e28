import Foundation
import GranuleData
import GranuleDictionary
import GranuleErrors
import GranuleEvaluation
import GranuleFiles
import GranuleRun
import GranuleTensors
import TestSupport
import Testing

extension TrainerTests {
  func checkpoints(_ run: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: "\(run)/checkpoints")) ?? []).sorted()
  }

  func setLearningRate(_ run: String, to new: String) throws {
    let path = "\(run)/config.json"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    let changed = text.replacingOccurrences(
      of: "\"learning_rate\": [0-9.e+]*", with: "\"learning_rate\": \(new)",
      options: .regularExpression)
    try #require(changed != text)
    try changed.write(toFile: path, atomically: true, encoding: .utf8)
  }

  /// Of every step a checkpoint, of which the newest alone stays.
  private var frugal: TrainingConfiguration {
    var configuration = configuration()
    configuration.checkpointEverySteps = 1
    configuration.checkpointsKept = 1
    configuration.divergenceSteps = 3
    return configuration
  }

  /// A run of `frugal` up to a step; from there on it has another learning rate.
  private func broken(_ name: String, at step: Int, learningRate: String) throws -> String {
    var done = 0
    _ = try Trainer(frugal, run: run(name)).train(
      onProgress: { done = $0.step }, shouldStop: { done == step })
    try setLearningRate(run(name), to: learningRate)
    return run(name)
  }

  private func message(_ run: String) throws -> String {
    let trainer = try Trainer(resuming: run)
    let error = #expect(throws: TrainingError.self) { _ = try trainer.train() }
    return error?.description ?? ""
  }

  @Test(
    "that diverges keeps the checkpoint before the step that did it, names it and says why",
    arguments: ["10.0", "1e30"])
  func lastGoodCheckpoint(learningRate: String) throws {
    let broken = try broken("a", at: 10, learningRate: learningRate)
    let message = try message(broken)
    #expect(message.contains("diverged"), "\(message)")
    #expect(message.contains("the last good checkpoint is of step 10"), "\(message)")
    #expect(message.contains("--learning-rate"), "\(message)")
    if learningRate == "10.0" {
      #expect(message.contains("times the running median"), "\(message)")
    }
    #expect(checkpoints(broken) == ["step-10"])
    #expect(!FileManager.default.fileExists(atPath: "\(broken)/dictionary"))
    // Good it is: from there the run ends as one that nothing happened to.
    try setLearningRate(broken, to: "3e-3")
    _ = try Trainer(resuming: broken).train()
    _ = try Trainer(frugal, run: run("whole")).train()
    #expect(try weights(broken) == weights(run("whole")))
  }

  @Test("that looks like diverging when it is stopped leaves the checkpoint before that")
  func stoppedWhileSuspect() throws {
    let broken = try broken("a", at: 10, learningRate: "10.0")
    let trainer = try Trainer(resuming: broken)
    var done = 0
    let outcome = try trainer.train(onProgress: { done = $0.step }, shouldStop: { done == 12 })
    guard case .interrupted(12) = outcome else {
      Issue.record("the run ended with \(outcome)")
      return
    }
    #expect(trainer.checkpointStep == 10 && checkpoints(broken) == ["step-10"])
  }

  @Test("that diverges in its last steps makes no dictionary")
  func divergedAtTheEnd() throws {
    let broken = try broken("a", at: 39, learningRate: "1000.0")
    let message = try message(broken)
    #expect(message.contains("training diverged"), "\(message)")
    #expect(message.contains("at step 40; the last good checkpoint is of step 39"), "\(message)")
    #expect(checkpoints(broken) == ["step-39"])
    #expect(!FileManager.default.fileExists(atPath: "\(broken)/dictionary"))
  }

  @Test("that diverges before its first checkpoint does not claim one")
  func divergedAtOnce() throws {
    var configuration = configuration()
    configuration.learningRate = 1e30
    let trainer = try Trainer(configuration, run: run("a"))
    let error = #expect(throws: TrainingError.self) { _ = try trainer.train() }
    let message = error?.description ?? ""
    #expect(
      message.contains("diverged") && message.contains("there is no checkpoint yet"), "\(message)")
    #expect(checkpoints(run("a")).isEmpty)
  }

  @Test("keeps in its checkpoint the losses that the next are compared with")
  func recentLosses() throws {
    var done = 0
    _ = try Trainer(configuration(), run: run("a")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    let file = try SafetensorsFile(
      FileBytes.read("\(run("a"))/checkpoints/step-17/state.safetensors"))
    let tensor = try file.tensor("recent_losses")
    let losses = (0..<tensor.count).map {
      tensor.bytes.loadUnaligned(fromByteOffset: 8 * $0, as: Double.self)
    }
    let logged = try String(contentsOfFile: "\(run("a"))/metrics.jsonl", encoding: .utf8)
      .split(separator: "\n").compactMap { try StrictJSON.parse(String($0))["loss"]?.number }
    #expect(losses == logged && losses.count == 17)
  }

  @Test("does not blame the activations where the encoder has grown beyond measure")
  func overflow() throws {
    let path = "\(folder.path)/huge"
    try Folder.make(path)
    try SparseAutoencoder.random(dModel: 16, latents: 8, rule: .topk(k: 2), seed: 1) {
      $0.encoderWeights = FloatStorage($0.encoderWeights.values.map { $0 * 1e37 })
    }.write(to: path)
    let error = #expect(throws: TrainingError.self) {
      try Evaluation(
        SparseAutoencoder(folder: path), on: ActivationDataset(paths: [activations]))
    }
    let message = error?.description ?? ""
    #expect(message.contains("activations.npy, row "), "\(message)")
    #expect(message.contains("longest encoder vector") && message.contains("e+37"), "\(message)")
  }
}
