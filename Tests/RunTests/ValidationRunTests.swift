import Foundation
import GranuleData
import GranuleDictionary
import GranuleEvaluation
import GranuleFiles
import GranuleRun
import TestSupport
import Testing

extension TrainerTests {
  private func heldOutLines(_ run: String) throws -> [JSONValue] {
    try String(contentsOfFile: "\(run)/metrics.jsonl", encoding: .utf8).split(separator: "\n")
      .map { try StrictJSON.parse(String($0)) }.filter { $0["held_out_fvu"] != nil }
  }

  @Test("measures as many held-out tokens as it is told, of sequences far apart")
  func validationTokens() throws {
    let all = try ActivationDataset(paths: [activations])
    func rows(_ limit: Int) -> [String] {
      let spread = all.spread(tokens: limit)
      return (0..<spread.tokens).map { spread.describe(token: $0) }
    }
    func rows(_ rows: [Range<Int>]) -> [String] {
      rows.joined().map { "\(activations), row \($0)" }
    }
    // Sequences of 21 rows, whose first is dropped.
    #expect(rows(60) == rows([1..<21, 85..<105, 169..<189]))
    #expect(rows(7) == rows([1..<8]))
    #expect(rows(1000).count == 240 && rows(240).count == 240 && rows(239).count == 220)

    var configuration = configuration()
    configuration.activations.heldOutSequences = 6
    configuration.validationTokens = 40
    guard case .finished(let dictionary) = try Trainer(configuration, run: run("a")).train() else {
      Issue.record("the run did not finish")
      return
    }
    let lines = try heldOutLines(run("a"))
    #expect(lines.compactMap { $0["step"]?.integer } == [7, 14, 21, 28, 35, 40])
    #expect(lines.allSatisfy { $0["held_out_tokens"] == 40 })
    let evaluation = try Evaluation(
      dictionary, on: all.selecting(sequences: 6..<12).spread(tokens: 40))
    #expect(evaluation.tokens == 40)
    let rowsAsTrained = evaluation.rows(.asTrained)
    for (row, granularity) in zip(rowsAsTrained, dictionary.granularities) {
      #expect(abs(Float(row.fvu) - (granularity.fvu ?? 0)) < 1e-6)
    }
    #expect(abs((rowsAsTrained.last?.fvu ?? 0) - (lines.last?["held_out_fvu"]?.number ?? 1)) < 1e-6)
  }

  @Test("heeds the first request to stop while it validates or calibrates, and makes up for it")
  func stoppedWhileMeasuring() throws {
    _ = try Trainer(configuration(), run: run("whole")).train()
    for (name, step) in [("validating", 14), ("calibrating", 40)] {
      var activities: Set<String> = []
      var isThere = false
      let outcome = try Trainer(configuration(), run: run(name)).train(
        onProgress: { progress in
          switch progress.activity {
          case .step: break
          case .validation: activities.insert("validating \(progress.step)")
          case .calibration: activities.insert("calibrating \(progress.step)")
          }
          isThere = activities.contains("\(name) \(step)")
        }, shouldStop: { isThere })
      guard case .interrupted(step) = outcome else {
        Issue.record("the run ended with \(outcome)")
        return
      }
      #expect(checkpoints(run(name)).contains("step-\(step)"))
      #expect(!FileManager.default.fileExists(atPath: "\(run(name))/dictionary"))
      _ = try Trainer(resuming: run(name)).train()
      #expect(try weights(run(name)) == weights(run("whole")))
      let lines = try heldOutLines(run(name))
      #expect(lines.compactMap { $0["step"]?.integer } == [7, 14, 21, 28, 35, 40])
    }
  }
}
