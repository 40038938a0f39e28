import Dispatch
import Foundation
import GranuleData
import GranuleDictionary
import GranuleErrors
import GranuleObjective
import GranuleRun
import TestSupport
import Testing

@Suite("A training run on pushed activations")
struct PushedRunTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  func run(_ name: String) -> String { "\(folder.path)/\(name)" }

  /// Sparse combinations of 24 directions: [count, 16].
  func rows(_ count: Int, seed: UInt64) -> [Float] {
    var generator = SeededGenerator(seed: 9)
    let directions = (0..<24).map { _ in generator.normals(16) }
    generator = SeededGenerator(seed: seed)
    return (0..<count).flatMap { _ in
      var x = [Float](repeating: 2, count: 16)
      for _ in 0..<3 {
        let direction = directions[Int.random(in: 0..<24, using: &generator)]
        let strength = Float.random(in: 1..<3, using: &generator)
        for i in 0..<16 { x[i] += strength * direction[i] }
      }
      return x
    }
  }

  func configuration(_ objective: TrainingObjective = .topk(k: 5)) -> TrainingConfiguration {
    var configuration = TrainingConfiguration(
      latents: 48, granularities: [6, 20, 48], objective: objective, tokens: 20_000,
      batchTokens: 100)
    configuration.learningRate = 1e-2
    return configuration
  }

  /// Pushes rows from another thread until the run takes no more, or `rows` rows were pushed.
  func produce(_ source: PushedActivations, rows: Int = .max) {
    let batches = (0..<8).map { self.rows(500, seed: $0) }
    DispatchQueue.global().async {
      var pushed = 0
      while pushed < rows, (try? source.push(batches[pushed / 500 % 8])) == .taken { pushed += 500 }
      source.end()
    }
  }

  @Test("learns while a program pushes, and stops taking rows when it is done")
  func learns() throws {
    let source = try PushedActivations(
      dModel: 16, windowRows: 4096,
      origin: .init(languageModel: "toy", hook: "blocks.1.hook_mlp_out"))
    let trainer = try Trainer(configuration(), source: source, run: run("a"))
    produce(source)
    guard case .finished(let dictionary) = try trainer.train() else {
      Issue.record("the run did not finish")
      return
    }
    let fvu = dictionary.granularities.compactMap(\.fvu)
    #expect(fvu.count == 3 && fvu[0] > fvu[1] && fvu[1] > fvu[2] && fvu[2] < 0.3, "\(fvu)")
    #expect(dictionary.provenance.languageModel == "toy")
    #expect(try source.push(rows(1, seed: 1)) == .finished)
    #expect(try TrainingConfiguration(run: run("a")).activations == ActivationFiles())
  }

  @Test(
    "ends with the stream if that is shorter, by each objective",
    arguments: [
      TrainingObjective.topk(k: 5), .batchtopk(k: 5), .jumprelu(.init(.target(l0: 5))),
      .relu(.init()),
    ])
  func shortStream(objective: TrainingObjective) throws {
    let source = try PushedActivations(dModel: 16, windowRows: 512, heldOutEvery: 0)
    produce(source, rows: 3000)
    let trainer = try Trainer(configuration(objective), source: source, run: run("a"))
    guard case .finished(let dictionary) = try trainer.train() else {
      Issue.record("the run did not finish")
      return
    }
    #expect(trainer.step == 30 && trainer.checkpointStep == 30)
    #expect(dictionary.granularities.count == 3)
  }

  @Test("is resumed with the rows that are pushed from then on")
  func resumes() throws {
    let first = try PushedActivations(dModel: 16, windowRows: 1024)
    produce(first)
    var done = 0
    _ = try Trainer(configuration(), source: first, run: run("a")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    let second = try PushedActivations(dModel: 16, windowRows: 1024)
    let trainer = try Trainer(resuming: run("a"), source: second)
    #expect(trainer.step == 17)
    produce(second)
    guard case .finished = try trainer.train() else {
      Issue.record("the run did not finish")
      return
    }
    #expect(trainer.step == 200)
  }

  @Test("that is aborted throws and keeps its checkpoint")
  func aborted() throws {
    let source = try PushedActivations(dModel: 16, windowRows: 500, heldOutEvery: 0)
    var configuration = configuration()
    configuration.checkpointEverySteps = 3
    let trainer = try Trainer(configuration, source: source, run: run("a"))
    try source.push(rows(500, seed: 1))
    try source.push(rows(400, seed: 2))
    let error = #expect(throws: TrainingError.self) {
      try trainer.train(onProgress: { if $0.step == 4 { source.abort("no more") } })
    }
    #expect(error?.kind == .streamClosed)
    #expect(trainer.checkpointStep == 3)
  }

  @Test("refuses files in place of a stream")
  func otherSource() throws {
    let source = try PushedActivations(dModel: 16, windowRows: 512)
    produce(source, rows: 1000)
    _ = try Trainer(configuration(), source: source, run: run("a")).train()
    let path = run("x.npy")
    try writeNumpy(rows(100, seed: 3), shape: [100, 16], to: path)
    let error = #expect(throws: TrainingError.self) {
      try Trainer(resuming: run("a"), source: FileActivations(ActivationFiles([path])))
    }
    #expect(error?.kind == .changed(path: run("a")))
  }
}
