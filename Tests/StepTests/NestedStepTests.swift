import Glibc
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleObjective
import GranuleStep
import GranuleTensors
import TestSupport
import Testing

/// Problems on which a step is checked: sizes that are no multiple of any block, several
/// granularities, dead latents.
struct StepProblem: CustomTestStringConvertible, Sendable {
  var dModel: Int
  var granularities: [Int]
  var k: Int
  var tokens: Int
  var dead: [Int]
  var kind = TrainingObjective.Kind.topk
  var penalty = TrainingObjective.JumpReLU.Penalty.l0
  var granularityWeights: [Double]?
  var core = 0
  var freezesCore = true
  var auxiliaryLatents: Int?

  var testDescription: String {
    "\(kind)\(core > 0 ? " core \(core)\(freezesCore ? " frozen" : "")" : "") d \(dModel), G \(granularities), k \(k), dead \(dead.count), penalty \(penalty)"
  }
  var latents: Int { granularities[granularities.count - 1] }

  var objective: StepObjective {
    let weight = TrainingObjective.PenaltyWeight(coefficient: 0.03)
    let sparsity: TrainingObjective =
      switch kind {
      case .topk: .topk(k: k)
      case .batchtopk:
        .batchtopk(
          k: k,
          core: core > 0
            ? .init(folder: "", latents: core, trainsEncoders: !freezesCore) : nil)
      case .jumprelu: .jumprelu(.init(penalty, weight: weight, bandwidth: 0.7))
      case .relu: .relu(weight)
      }
    var objective = StepObjective(sparsity, granularities: granularities)
    objective.granularityWeights = granularityWeights
    objective.auxiliary = AuxiliaryLoss(latents: auxiliaryLatents)
    return objective
  }

  static let topk = [
    StepProblem(dModel: 5, granularities: [7], k: 2, tokens: 9, dead: []),
    StepProblem(dModel: 6, granularities: [3, 8, 20], k: 4, tokens: 11, dead: []),
    StepProblem(dModel: 8, granularities: [4, 9, 30], k: 5, tokens: 13, dead: [2, 11, 28, 29]),
    StepProblem(
      dModel: 17, granularities: [1, 2, 40, 65], k: 9, tokens: 7, dead: Array(40..<60),
      granularityWeights: [0.1, 0.2, 0.3, 0.4]),
    StepProblem(
      dModel: 64, granularities: [50, 130], k: 9, tokens: 70, dead: [1, 129],
      granularityWeights: [1, 0]),
    // Fewer dead latents than the auxiliary loss would take by itself, and more than there are.
    StepProblem(
      dModel: 12, granularities: [9, 40], k: 4, tokens: 10, dead: Array(20..<40),
      auxiliaryLatents: 2),
    StepProblem(
      dModel: 6, granularities: [9, 40], k: 4, tokens: 10, dead: Array(20..<36),
      auxiliaryLatents: 1000),
  ]
  static let all =
    topk + [
      StepProblem(
        dModel: 8, granularities: [4, 9, 30], k: 5, tokens: 13, dead: [2, 11, 28, 29],
        kind: .batchtopk),
      StepProblem(dModel: 33, granularities: [70], k: 3, tokens: 40, dead: [], kind: .batchtopk),
      StepProblem(
        dModel: 8, granularities: [4, 9, 30], k: 6, tokens: 13, dead: [1, 11, 28, 29],
        kind: .batchtopk, core: 3),
      // A core that is active more often than the budget allows, and one larger than a prefix.
      StepProblem(
        dModel: 33, granularities: [30, 70], k: 3, tokens: 40, dead: [], kind: .batchtopk, core: 21),
      StepProblem(
        dModel: 9, granularities: [11, 90], k: 20, tokens: 17, dead: [2], kind: .batchtopk,
        core: 20, freezesCore: false),
      StepProblem(
        dModel: 8, granularities: [4, 9, 30], k: 1, tokens: 13, dead: [2, 11], kind: .jumprelu),
      StepProblem(
        dModel: 35, granularities: [20, 70], k: 1, tokens: 19, dead: [], kind: .jumprelu,
        penalty: .tanh(scale: 1.5)),
      StepProblem(
        dModel: 9, granularities: [12, 40], k: 1, tokens: 15, dead: [], kind: .jumprelu,
        penalty: .target(l0: 4)),
      StepProblem(
        dModel: 8, granularities: [4, 9, 30], k: 1, tokens: 13, dead: [2, 29], kind: .relu),
      StepProblem(dModel: 40, granularities: [100], k: 1, tokens: 33, dead: [], kind: .relu),
    ]

  func weights(seed: UInt64) -> DictionaryWeights {
    let weights = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: kind == .jumprelu)
    weights.initialize(decoderBias: [Float](repeating: 0.25, count: dModel), seed: seed)
    var generator = SeededGenerator(seed: seed)
    for i in 0..<weights.encoder.count { weights.encoder.pointer[i] += 0.1 * generator.normal() }
    for i in 0..<latents {
      weights.encoderBias.pointer[i] = 0.1 * generator.normal()
      // Some so low that what is near them is not positive.
      weights.thresholds?.pointer[i] = Float(i % 4) * 0.4
    }
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
      decoderBias: weights.decoderBias.values.map(Double.init),
      thresholds: weights.thresholds?.values.map(Double.init) ?? [])
  }

  static var parts: [WritableKeyPath<Self, [Double]>] {
    [\.encoder, \.encoderBias, \.decoder, \.decoderBias, \.thresholds]
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
    let reference = ReferenceStep(problem.objective)
    var weights = ReferenceStep.Weights(problem.weights(seed: 4))
    let batch = rows(problem.batch(seed: 4), dModel: problem.dModel)
    let (losses, gradient, constants) = reference.run(weights, batch: batch, dead: problem.dead)
    #expect(losses.l0 > 0)
    let step = 1e-6
    // Thresholds have straight-through estimates, no derivatives.
    for part in ReferenceStep.Weights.parts where part != \.thresholds {
      let indices = weights[keyPath: part].indices
      for index in stride(from: 0, to: indices.count, by: max(1, indices.count / 200)) {
        if part == \.encoder, index < problem.objective.frozenEncoders * problem.dModel {
          #expect(gradient[keyPath: part][index] == 0)
          continue
        }
        let value = weights[keyPath: part][index]
        func loss(_ shift: Double) -> Double {
          weights[keyPath: part][index] = value + shift
          defer { weights[keyPath: part][index] = value }
          return reference.run(weights, batch: batch, dead: problem.dead, constants: constants)
            .losses.total
        }
        let numeric = (loss(step) - loss(-step)) / (2 * step)
        let analytic = gradient[keyPath: part][index]
        #expect(abs(numeric - analytic) < 1e-7 + 1e-5 * abs(analytic), "\(part) \(index)")
      }
    }
  }

  @Test("in its plain form moves thresholds as the straight-through estimate says")
  func straightThrough() {
    // One latent, one dimension: z = h where h > θ, x̂ = z; of three tokens the second is near θ from
    // below, the third from above.
    let objective = StepObjective(
      .jumprelu(.init(weight: .init(coefficient: 0.3), bandwidth: 0.5)), granularities: [1])
    let weights = ReferenceStep.Weights(
      encoder: [1], encoderBias: [0], decoder: [1], decoderBias: [0], thresholds: [1])
    let batch = [[3.0], [0.9], [1.1]]
    let mean = 5.0 / 3
    let variance = batch.reduce(0) { $0 + ($1[0] - mean) * ($1[0] - mean) }
    let (losses, gradient, _) = ReferenceStep(objective).run(weights, batch: batch, dead: [])
    #expect(abs(losses.l0 - 2.0 / 3) < 1e-12)
    // ∂‖x − x̂‖²/∂z: −2 · 0.9 where z is 0, none where x̂ is x; −θ/ε of that; and −1/ε for each of
    // both tokens' L0, in the mean over three.
    let reconstruction = -2 * 0.9 / variance * (-1 / 0.5)
    let sparsity = 2 * 0.3 / 3 * (-1 / 0.5)
    #expect(abs(gradient.thresholds[0] - (reconstruction + sparsity)) < 1e-12)
  }

  @Test("in its fast form equals the plain one", arguments: StepProblem.all)
  func fastEqualsPlain(problem: StepProblem) throws {
    let weights = problem.weights(seed: 9)
    let batch = problem.batch(seed: 9)
    let expected = ReferenceStep(problem.objective).run(
      ReferenceStep.Weights(weights), batch: rows(batch, dModel: problem.dModel), dead: problem.dead
    )
    let fast = NestedStep(weights: weights)
    // What an earlier batch left must not show.
    _ = try fast.run(
      batch: FloatStorage(problem.batch(seed: 77)), dead: Array(problem.dead.prefix(1)),
      objective: problem.objective)
    let losses = try fast.run(
      batch: FloatStorage(batch), dead: problem.dead, objective: problem.objective)
    #expect(abs(losses.total - expected.losses.total) < 1e-5 * expected.losses.total)
    #expect(abs(losses.auxiliary - expected.losses.auxiliary) < 1e-5)
    #expect(abs(losses.penalty - expected.losses.penalty) < 1e-5 * (1 + expected.losses.penalty))
    #expect(abs(losses.l0 - expected.losses.l0) < 1e-9)
    #expect(losses.isFloored == (problem.core == 21))
    #expect((losses.coreL0 > 0) == (problem.core > 0))
    // With a core, too, k a token in all, unless it leaves too little.
    if problem.kind == .batchtopk, !losses.isFloored {
      #expect(abs(losses.l0 - Double(problem.k)) < 1e-9)
    }
    for (got, want) in zip(losses.fvu, expected.losses.fvu) { #expect(abs(got - want) < 1e-5) }
    let gradient = ReferenceStep.Weights(fast.gradient.weights)
    for part in ReferenceStep.Weights.parts {
      expectClose(gradient[keyPath: part], expected.gradient[keyPath: part], 2e-5, "\(part)")
    }
    // The norm that clipping takes, without what is along decoder rows.
    var squaredNorm = 0.0
    for part in ReferenceStep.Weights.parts {
      squaredNorm += expected.gradient[keyPath: part].reduce(0) { $0 + $1 * $1 }
    }
    for latent in 0..<problem.latents {
      let row = latent * problem.dModel..<(latent + 1) * problem.dModel
      let along = zip(
        expected.gradient.decoder[row], weights.decoder.values[row].map(Double.init)
      ).reduce(0) { $0 + $1.0 * $1.1 }
      squaredNorm -= along * along
    }
    #expect(abs(fast.gradient.squaredNorm - squaredNorm) < 1e-4 * squaredNorm)
  }

  @Test("on many threads gives the very bits that one gives", arguments: StepProblem.all)
  func sameBits(problem: StepProblem) throws {
    // Threads take blocks as they become free, so that each run deals them out another way.
    func trained() throws -> [[Float]] {
      let weights = problem.weights(seed: 3)
      let step = NestedStep(weights: weights)
      var optimizer = AdamOptimizer(
        latents: problem.latents, dModel: problem.dModel, hasThresholds: problem.kind == .jumprelu)
      for number in 0..<4 {
        _ = try step.run(
          batch: FloatStorage(problem.batch(seed: UInt64(number))), dead: problem.dead,
          objective: problem.objective)
        _ = step.update(
          &optimizer,
          AdamOptimizer.Step(learningRate: 1e-2, weightDecay: 0.1, gradientNormMax: 0.05),
          objective: problem.objective)
      }
      return [
        weights.encoder.array, weights.encoderBias.array, weights.decoder.array,
        weights.decoderBias.array, weights.thresholds?.array ?? [],
      ]
    }
    let first = try trained()
    for _ in 0..<5 {
      let isSame = try trained() == first
      #expect(isSame)
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
    var objective = StepObjective(
      .topk(k: 6), granularities: try file.tensor("granularities").integers())
    objective.auxiliary = AuxiliaryLoss()
    let step = NestedStep(weights: weights)
    let losses = try step.run(batch: batch, dead: dead, objective: objective)
    expectClose(losses.fvu, try values("fvu"), 1e-5, "FVU")
    expectClose([losses.auxiliary], try values("auxiliary"), 1e-5, "auxiliary loss")
    let gradient = ReferenceStep.Weights(step.gradient.weights)
    for (name, part) in zip(named.map(\.0), ReferenceStep.Weights.parts) {
      expectClose(gradient[keyPath: part], try values("gradient.\(name)"), 2e-5, name)
    }
    var optimizer = AdamOptimizer(latents: shape[0], dModel: shape[1])
    var norms: [Double] = []
    for number in 0..<5 {
      if number > 0 { _ = try step.run(batch: batch, dead: dead, objective: objective) }
      norms.append(
        step.update(
          &optimizer,
          AdamOptimizer.Step(learningRate: 1e-2, weightDecay: 0.1, gradientNormMax: 0.05),
          objective: objective))
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
    let difference = zip(got, expected).map { abs($0 - $1) }.max() ?? 0
    #expect(difference <= relative * largest, "\(what): \(difference) of \(largest)")
  }

  @Test("takes Adam's steps with the betas that it is given, as plain float64 does")
  func betas() throws {
    let problem = StepProblem.topk[1]
    let weights = problem.weights(seed: 1)
    let step = NestedStep(weights: weights)
    var optimizer = AdamOptimizer(latents: problem.latents, dModel: problem.dModel)
    var adam = AdamOptimizer.Step(learningRate: 1e-2, weightDecay: 0, gradientNormMax: 0)
    (adam.beta1, adam.beta2) = (0.5, 0.7)
    var expected = weights.encoderBias.array.map(Double.init)
    var first = [Double](repeating: 0, count: expected.count)
    var second = first
    for number in 1...4 {
      _ = try step.run(
        batch: FloatStorage(problem.batch(seed: UInt64(number))), dead: [],
        objective: problem.objective)
      let gradient = step.gradient.weights.encoderBias.array.map(Double.init)
      for i in expected.indices {
        first[i] = 0.5 * first[i] + 0.5 * gradient[i]
        second[i] = 0.7 * second[i] + 0.3 * gradient[i] * gradient[i]
        let mean = first[i] / (1 - pow(0.5, Double(number)))
        let deviation = (second[i] / (1 - pow(0.7, Double(number)))).squareRoot()
        expected[i] -= 1e-2 * mean / (deviation + 1e-8)
      }
      _ = step.update(&optimizer, adam, objective: problem.objective)
    }
    expectClose(weights.encoderBias.array.map(Double.init), expected, 1e-4, "b_enc")
  }

  @Test("names the token that is not finite")
  func notFinite() {
    let problem = StepProblem.topk[1]
    var batch = problem.batch(seed: 1)
    batch[5 * problem.dModel + 2] = .nan
    let step = NestedStep(weights: problem.weights(seed: 1))
    #expect(throws: EncodingError.notFinite(token: 5, dimension: 2)) {
      try step.run(batch: FloatStorage(batch), dead: [], objective: problem.objective)
    }
  }
}
