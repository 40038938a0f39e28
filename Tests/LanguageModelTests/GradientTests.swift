import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

@Suite("The gradient of the mean next-token loss")
struct GradientTests {
  @Test(
    "is what central differences of the plain version give", arguments: SmallModel.all, [0, 1])
  func finiteDifferences(small: SmallModel, layer: Int) throws {
    var small = small
    // Cheap enough for two losses a coordinate; one sequence longer than a block of queries.
    small.lengths = small.lengths.map { min($0, 66) }
    let weights = small.weights
    let model = LanguageModel(weights)
    let sequences = weights.randomSequences(small.lengths, seed: 8)
    let batch = try TokenBatch(sequences, for: weights.configuration)
    let hidden = model.residual(of: batch, before: layer)
    let gradient = model.lossGradient(of: batch, at: hidden, before: layer).gradient

    let reference = ReferenceLanguageModel(weights)
    let predictions = Double(batch.predictingRows.count)
    var generator = SeededGenerator(seed: 9)
    let dModel = small.dModel
    let largest = gradient.array.map(abs).max() ?? 0
    for (number, sequence) in sequences.enumerated() where sequence.count > 1 {
      let start = batch.starts[number]
      let stream = (0..<sequence.count).map { row in
        (0..<dModel).map { Double(hidden.pointer[(start + row) * dModel + $0]) }
      }
      for _ in 0..<4 {
        let row = Int.random(in: 0..<sequence.count, using: &generator)
        let column = Int.random(in: 0..<dModel, using: &generator)
        func loss(_ shift: Double) -> Double {
          var shifted = stream
          shifted[row][column] += shift
          return reference.losses(sequence, shifted, before: layer).reduce(0, +) / predictions
        }
        let step = 1e-5
        let numeric = (loss(step) - loss(-step)) / (2 * step)
        let analytic = Double(gradient.pointer[(start + row) * dModel + column])
        #expect(
          abs(numeric - analytic) < 1e-5 * Double(largest) + 1e-9,
          "sequence \(number), row \(row), column \(column): \(analytic), \(numeric) expected")
      }
    }
  }

  @Test("is the same however little may be stored on the way", arguments: [0, 1 << 17, 1 << 20])
  func boundedStorage(bytes: Int) throws {
    let weights = SmallModel.all[1].weights
    let model = LanguageModel(weights)
    let batch = try TokenBatch(
      weights.randomSequences([40, 3, 66, 1, 17], seed: 10), for: weights.configuration)
    let hidden = model.residual(of: batch, before: 0)
    let before = hidden.array
    let (loss, gradient) = model.lossGradient(of: batch, at: hidden, before: 0)
    let bounded = model.lossGradient(of: batch, at: hidden, before: 0, storageBytesMax: bytes)
    #expect(hidden.array == before)
    // Other groups of sequences: other orders of summation in the products.
    #expect(abs(bounded.loss.mean - loss.mean) < 1e-6)
    let dModel = weights.configuration.dModel
    #expect(
      worstRowError(bounded.gradient.array, gradient.array.map(Double.init), columns: dModel) < 1e-5
    )
    let final = model.residual(of: batch, before: 2)
    #expect(abs(loss.mean - model.nextTokenLoss(final: final, of: batch).mean) < 1e-6)
  }
}
