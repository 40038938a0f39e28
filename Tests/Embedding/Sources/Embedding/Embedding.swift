import Files
import Foundation
import Granule
import GranuleClient
import GranuleServer
import GranuleTraining
import Server

/// A promise of the libraries that did not hold.
struct Broken: Error, CustomStringConvertible {
  let description: String
}

func require(_ condition: Bool, _ promise: String) throws(Broken) {
  if !condition { throw Broken(description: promise) }
}

@main
struct Embedding {
  static func main() async {
    do { try await check() } catch {
      FileHandle.standardError.write(Data("embedding: \(error)\n".utf8))
      exit(1)
    }
  }

  /// Uses the libraries, and compares the process before and after.
  static func check() async throws {
    // The threads of Swift's own pool come with the first tasks, and stay. Tasks that block for a
    // moment make the pool grow to its full size, so that later tasks add no thread.
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<256 { group.addTask { usleep(1000) } }
    }
    let before = ProcessState()
    try await useLibraries()
    // The system reports a thread for a moment after it was joined, and nothing signals that it is
    // gone: so this asks again, at most 200 times.
    var changes = ProcessState().changes(since: before)
    for _ in 0..<200 where !changes.isEmpty {
      try await Task.sleep(for: .milliseconds(50))
      changes = ProcessState().changes(since: before)
    }
    let text = changes.joined(separator: "\n")
    try require(changes.isEmpty, "a library changed the process:\n\(text)")
    print("The process is as it was before.")
  }

  static func useLibraries() async throws {
    let scratch = try ScratchFolder()
    let dictionary = try train(in: scratch.path)
    let (activations, tokens) = (Rows(seed: 9).values(count: 100), 100)

    // Encoding, in ten lines with what it takes to look at the codes.
    let encoder = try SparseEncoder(SparseAutoencoder(folder: dictionary))
    let codes = try encoder.encode(activations, granularity: 32)
    let reconstruction = try encoder.decode(codes)
    for token in 0..<3 {
      let row = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
      print("token \(token):", row.map { "\(codes.indices[$0]): \(codes.values[$0])" })
    }

    let fvu = Rows.unexplained(of: activations, by: reconstruction)
    print("FVU of \(tokens) tokens: \(fvu)")
    try require(codes.rowOffsets.count == tokens + 1, "each token has a row")
    try require(fvu < 0.5, "a trained dictionary explains more than half of the variance")
    try await serve(dictionary, in: scratch.path, activations, expected: codes)
  }

  /// Trains on rows that another thread makes; returns the dictionary's folder.
  static func train(in scratch: String) throws -> String {
    let source = try PushedActivations(dModel: Rows.dModel, windowRows: 2048, heldOutEvery: 0)
    Thread.detachNewThread {
      do {
        for seed in UInt64(100)... {
          let answer = try source.push(Rows(seed: seed).values(count: 500))
          if case .finished = answer { return }
        }
      } catch { source.abort("\(error)") }
    }
    var configuration = TrainingConfiguration(
      latents: 64, granularities: [32, 64], objective: .topk(k: 4), tokens: 100_000,
      batchTokens: 256)
    configuration.learningRate = 5e-3
    let trainer = try Trainer(configuration, source: source, run: "\(scratch)/run")
    guard case .finished = try trainer.train() else {
      throw Broken(description: "training was not to be interrupted")
    }
    return "\(scratch)/run/\(Trainer.dictionaryFolderName)"
  }

  /// Publishes a dictionary, serves it in this process, and encodes as a client of that server.
  static func serve(
    _ dictionary: String, in scratch: String, _ activations: [Float], expected: SparseCodes
  ) async throws {
    let repository = ModelRepository(path: "\(scratch)/models")
    _ = try repository.publish(folder: dictionary, name: "m")
    let server = try Server.start(
      ServerOptions(repository: repository.path, listen: .tcp(host: "127.0.0.1", port: 0)))
    defer { server.stop() }
    let client = try await Client.connect(to: server.address)
    let response = try await client.encode(
      EncodeRequest(
        model: "m",
        activations: PackedTensor(
          type: .float32, shape: [UInt32(activations.count / Rows.dModel), UInt32(Rows.dModel)],
          data: SharedBytes(copying: activations)),
        granularities: [32]))
    guard let codes = response.codes else { throw Broken(description: "a response has codes") }
    try require(
      codes.rowOffsets.array(of: UInt32.self) == expected.rowOffsets
        && codes.indices.array(of: UInt32.self) == expected.indices
        && codes.values.array(of: Float.self) == expected.values,
      "a server gives the codes of its dictionary")
    print("The server in this process gave the same codes, by version \(response.version).")
    client.close()
  }
}
