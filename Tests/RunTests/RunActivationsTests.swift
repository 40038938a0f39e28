import Foundation
import GranuleData
import GranuleErrors
import GranuleRun
import TestSupport
import Testing

extension TrainerTests {
  /// A file of `sequences` sequences of 21 positions, d_model 16.
  private func shard(_ name: String, sequences: Int, seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    try writeNumpy(
      generator.normals(sequences * 21 * 16), shape: [sequences, 21, 16],
      to: "\(folder.path)/shards/\(name)")
  }

  @Test("is resumed on the activations that it was begun on alone, and says what has changed")
  func otherActivations() throws {
    try FileManager.default.createDirectory(
      atPath: "\(folder.path)/shards", withIntermediateDirectories: false)
    // Larger than what is looked at of it.
    try shard("b.npy", sequences: 80, seed: 1)
    try shard("d.npy", sequences: 4, seed: 2)
    var configuration = configuration()
    configuration.activations.paths = ["\(folder.path)/shards"]
    _ = try Trainer(configuration, run: run("whole")).train()
    var done = 0
    _ = try Trainer(configuration, run: run("part")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 7 })

    func expectRefusal(_ change: String) {
      for body in [
        { _ = try Trainer(resuming: run("part")) }, { _ = try FileActivations(run: run("whole")) },
      ] {
        let error = #expect(throws: TrainingError.self) { try body() }
        #expect(error?.description.contains(change) == true, "\(String(describing: error))")
      }
    }
    for name in ["a.npy", "c.npy", "e.npy"] {
      try shard(name, sequences: 2, seed: 3)
      expectRefusal("shards/\(name) was added")
      try FileManager.default.removeItem(atPath: "\(folder.path)/shards/\(name)")
    }
    try shard("d.npy", sequences: 5, seed: 2)
    expectRefusal("shards/d.npy has 100 tokens, it had 80")
    try shard("d.npy", sequences: 4, seed: 7)
    expectRefusal("shards/d.npy has other contents")
    try shard("d.npy", sequences: 4, seed: 2)
    try shard("b.npy", sequences: 80, seed: 7)
    expectRefusal("shards/b.npy has other contents")
    try FileManager.default.removeItem(atPath: "\(folder.path)/shards/b.npy")
    expectRefusal("shards/b.npy is gone")

    // As they were.
    try shard("b.npy", sequences: 80, seed: 1)
    _ = try Trainer(resuming: run("part")).train()
    #expect(try weights(run("part")) == weights(run("whole")))
  }
}
