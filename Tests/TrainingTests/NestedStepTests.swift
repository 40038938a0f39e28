import SparseAutoencoder
import Tensors
import TestSupport
import Testing
import Training

/// Problems on which a step is checked: sizes that are no multiple of any block, several
/// granularities, dead latents.
struct StepProblem: CustomTestStringConvertible, Sendable {
  var dModel: Int
  var granularities: [Int]
  var k: Int
  var tokens: Int
  var dead: [Int]

  var testDescription: String { "d \(dModel), G \(granularities), k \(k), dead \(dead.count)" }
  var latents: Int { granularities[granularities.count - 1] }

  static let all = [
    StepProblem(dModel: 5, granularities: [7], k: 2, tokens: 9, dead: []),
    StepProblem(dModel: 6, granularities: [3, 8, 20], k: 4, tokens: 11, dead: []),
    StepProblem(dModel: 8, granularities: [4, 9, 30], k: 5, tokens: 13, dead: [2, 11, 28, 29]),
    StepProblem(dModel: 17, granularities: [1, 2, 40, 65], k: 9, tokens: 7, dead: Array(40..<60)),
  ]

  func weights(seed: UInt64) -> DictionaryWeights {
    let weights = DictionaryWeights(latents: latents, dModel: dModel)
    weights.initialize(decoderBias: [Float](repeating: 0.25, count: dModel), seed: seed)
    var generator = SeededGenerator(seed: seed)
    for i in 0..<weights.encoder.count { weights.encoder.pointer[i] += 0.1 * generator.normal() }
    for i in 0..<latents { weights.encoderBias.pointer[i] = 0.1 * generator.normal() }
    return weights
  }

  func batch(seed: UInt64) -> [Float] {
    var generator = SeededGenerator(seed: seed &+ 1)
    return generator.normals(tokens * dModel, scale: 1.5).map { $0 + 0.5 }
  }
}

extension ReferenceStep.Weights {
  init(_ weights: DictionaryWeights) {
    self.init(
      encoder: weights.encoder.values.map(Double.init),
      encoderBias: weights.encoderBias.values.map(Double.init),
      decoder: weights.decoder.values.map(Double.init),
      decoderBias: weights.decoderBias.values.map(Double.init))
  }

  static var parts: [WritableKeyPath<Self, [Double]>] {
    [\.encoder, \.encoderBias, \.decoder, \.decoderBias]
  }
}

func rows(_ batch: [Float], dModel: Int) -> [[Double]] {
  stride(from: 0, to: batch.count, by: dModel).map { batch[$0..<$0 + dModel].map(Double.init) }
}

@Suite("A training step")
struct NestedStepTests {
  @Test(
    "in its plain form has the gradient that finite differences give", arguments: StepProblem.all)
  func finiteDifferences(problem: StepProblem) {
    let reference = ReferenceStep(
      granularities: problem.granularities, k: problem.k, auxiliaryCoefficient: 1.0 / 32)
    var weights = ReferenceStep.Weights(problem.weights(seed: 4))
    let batch = rows(problem.batch(seed: 4), dModel: problem.dModel)
    let (_, gradient, residuals) = reference.run(weights, batch: batch, dead: problem.dead)
    let step = 1e-6
    for part in ReferenceStep.Weights.parts {
      for index in weights[keyPath: part].indices {
        let value = weights[keyPath: part][index]
        func loss(_ shift: Double) -> Double {
          weights[keyPath: part][index] = value + shift
          defer { weights[keyPath: part][index] = value }
          return reference.run(weights, batch: batch, dead: problem.dead, residuals: residuals)
            .losses.total
        }
        let numeric = (loss(step) - loss(-step)) / (2 * step)
        let analytic = gradient[keyPath: part][index]
        #expect(abs(numeric - analytic) < 1e-7 + 1e-5 * abs(analytic), "\(part) \(index)")
      }
    }
  }

  @Test("in its fast form equals the plain one", arguments: StepProblem.all)
  func fastEqualsPlain(problem: StepProblem) throws {
    let weights = problem.weights(seed: 9)
    let batch = problem.batch(seed: 9)
    let expected = ReferenceStep(
      granularities: problem.granularities, k: problem.k, auxiliaryCoefficient: 1.0 / 32
    ).run(
      ReferenceStep.Weights(weights), batch: rows(batch, dModel: problem.dModel), dead: problem.dead
    )
    let fast = NestedStep(
      weights: weights, granularities: problem.granularities, k: problem.k,
      auxiliaryCoefficient: 1.0 / 32)
    let losses = try fast.run(batch: FloatStorage(batch), dead: problem.dead)
    #expect(abs(losses.total - expected.losses.total) < 1e-5 * expected.losses.total)
    #expect(abs(losses.auxiliary - expected.losses.auxiliary) < 1e-5)
    for (got, want) in zip(losses.fvu, expected.losses.fvu) { #expect(abs(got - want) < 1e-5) }
    let gradient = ReferenceStep.Weights(fast.gradient)
    for part in ReferenceStep.Weights.parts {
      let largest = expected.gradient[keyPath: part].map(abs).max() ?? 0
      for (got, want) in zip(gradient[keyPath: part], expected.gradient[keyPath: part]) {
        #expect(abs(got - want) < 2e-5 * largest, "\(part)")
      }
    }
  }

  @Test("gives the losses and gradients that PyTorch gives, and its weights after five AdamW steps")
  func pyTorch() throws {
    var path = #filePath
    path.removeLast("NestedStepTests.swift".count)
    let file = try SafetensorsFile(FileBytes.read(path + "Fixtures/nested_step.safetensors"))
    func values(_ name: String) throws -> [Double] {
      let tensor = try file.tensor(name)
      return (0..<tensor.count).map {
        tensor.bytes.loadUnaligned(fromByteOffset: $0 * 8, as: Double.self)
      }
    }
    let shape = try file.tensor("initial.W_dec").shape
    let weights = DictionaryWeights(latents: shape[0], dModel: shape[1])
    let named = [
      ("W_enc", weights.encoder), ("b_enc", weights.encoderBias), ("W_dec", weights.decoder),
      ("b_dec", weights.decoderBias),
    ]
    for (name, storage) in named {
      let tensor = try file.tensor("initial.\(name)")
      try tensor.copyFloat32(elements: 0..<tensor.count, into: storage.pointer)
    }
    let batch = try file.tensor("batch").float32()
    let dead = try file.tensor("dead").integers()
    let step = NestedStep(
      weights: weights, granularities: try file.tensor("granularities").integers(), k: 6,
      auxiliaryCoefficient: 1.0 / 32)
    let losses = try step.run(batch: batch, dead: dead)
    expectClose(losses.fvu, try values("fvu"), 1e-5, "FVU")
    expectClose([losses.auxiliary], try values("auxiliary"), 1e-5, "auxiliary loss")
    let gradient = ReferenceStep.Weights(step.gradient)
    for (name, part) in zip(named.map(\.0), ReferenceStep.Weights.parts) {
      expectClose(gradient[keyPath: part], try values("gradient.\(name)"), 2e-5, name)
    }
    var optimizer = AdamOptimizer(latents: shape[0], dModel: shape[1])
    var norms: [Double] = []
    for number in 0..<5 {
      if number > 0 { _ = try step.run(batch: batch, dead: dead) }
      norms.append(
        optimizer.step(
          weights, gradient: step.gradient, learningRate: 1e-2, weightDecay: 0.1,
          gradientNormMax: 0.05))
    }
    expectClose(norms, try values("gradient_norms"), 1e-4, "gradient norms")
    let trained = ReferenceStep.Weights(weights)
    for (name, part) in zip(named.map(\.0), ReferenceStep.Weights.parts) {
      expectClose(trained[keyPath: part], try values("trained.\(name)"), 1e-4, "trained \(name)")
    }
  }

  func expectClose(_ got: [Double], _ expected: [Double], _ relative: Double, _ what: String) {
    #expect(got.count == expected.count)
    let largest = expected.map(abs).max() ?? 0
    let difference = zip(got, expected).map { abs($0 - $1) }.max() ?? .infinity
    #expect(difference <= relative * largest, "\(what): \(difference) of \(largest)")
  }

  @Test("names the token that is not finite")
  func notFinite() {
    let problem = StepProblem.all[1]
    var batch = problem.batch(seed: 1)
    batch[5 * problem.dModel + 2] = .nan
    let step = NestedStep(
      weights: problem.weights(seed: 1), granularities: problem.granularities, k: problem.k,
      auxiliaryCoefficient: 0)
    #expect(throws: EncodingError.notFinite(token: 5, dimension: 2)) {
      try step.run(batch: FloatStorage(batch), dead: [])
    }
  }
}
