import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite(
  "stories260K", .enabled(if: SharedData.isPresent, "needs ../shared/data, which is not there"))
struct Stories260KTests {
  private let model: LanguageModel
  private let golden: JSONValue

  init() throws {
    model = LanguageModel(
      try Llama2CModel.weights(SharedData.path("stories260K/stories260K.bin")))
    let file = try FileBytes.read(SharedData.path("golden/stories260K_golden.json"))
    golden = try StrictJSON.parse(file.bytes)
  }

  private func numbers(_ key: String) throws -> [Double] {
    try #require(golden[key]?.elements).map { try #require($0.number) }
  }

  private func tokens(_ key: String) throws -> [Int32] {
    try #require(golden[key]?.elements).map { Int32(try #require($0.integer)) }
  }

  // Float32 on both sides, five blocks, summed in other orders.
  @Test("has the reference's losses and last logits within 2e-5")
  func losses() throws {
    let ids = try tokens("ids")
    let batch = try TokenBatch([ids], for: model.configuration)
    let final = model.residual(of: batch, before: model.configuration.blocks)
    let loss = model.nextTokenLoss(final: final, of: batch)
    let expected = try numbers("ce")
    #expect(loss.crossEntropies.count == expected.count)
    for (loss, expected) in zip(loss.crossEntropies, expected) {
      #expect(abs(Double(loss) - expected) < 2e-5)
    }
    let mean = try #require(golden["mean_ce"]?.number)
    #expect(abs(loss.mean - mean) < 1e-5)
    let logits = model.logits(final: final, rows: batch.rows - 1..<batch.rows)
    for (logit, expected) in zip(logits.array, try numbers("last_logits")) {
      #expect(abs(Double(logit) - expected) < 1e-4)
    }
  }

  @Test("continues a story with the reference's tokens")
  func greedy() throws {
    let expected = try tokens("greedy_from_bos")
    var tokens = [expected[0]]
    while tokens.count < expected.count {
      let batch = try TokenBatch([tokens], for: model.configuration)
      let final = model.residual(of: batch, before: model.configuration.blocks)
      let logits = model.logits(final: final, rows: batch.rows - 1..<batch.rows).array
      let best = try #require(logits.indices.max { logits[$0] < logits[$1] })
      tokens.append(Int32(best))
    }
    #expect(tokens == expected)
  }

  @Test("has the gradient that central differences give", arguments: [0, 2, 4])
  func finiteDifferences(layer: Int) throws {
    let ids = Array(try tokens("ids").prefix(24))
    let batch = try TokenBatch([ids], for: model.configuration)
    let hidden = model.residual(of: batch, before: layer)
    let gradient = model.lossGradient(of: batch, at: hidden, before: layer).gradient
    let reference = ReferenceLanguageModel(model.weights)
    let dModel = model.configuration.dModel
    let stream = (0..<ids.count).map { row in
      (0..<dModel).map { Double(hidden.pointer[row * dModel + $0]) }
    }
    // Along the gradient itself and along random directions: each checks every coordinate.
    var generator = SeededGenerator(seed: 3)
    let directions =
      [gradient.array.map(Double.init)]
      + (0..<3).map { _ in generator.normals(gradient.count).map(Double.init) }
    for direction in directions {
      let norm = direction.reduce(0) { $0 + $1 * $1 }.squareRoot()
      func loss(_ shift: Double) -> Double {
        let shifted = (0..<ids.count).map { row in
          (0..<dModel).map {
            stream[row][$0] + shift * direction[row * dModel + $0] / norm
          }
        }
        let losses = reference.losses(ids, shifted, before: layer)
        return losses.reduce(0, +) / Double(losses.count)
      }
      let numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
      let analytic = zip(gradient.array, direction).reduce(0) { $0 + Double($1.0) * $1.1 } / norm
      let size = gradient.array.reduce(0) { $0 + Double($1 * $1) }.squareRoot()
      #expect(abs(numeric - analytic) < 1e-4 * size, "\(analytic), \(numeric) expected")
    }
  }
}
