import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleStep
import GranuleTensors
import GranuleTraining

/// The times, or the losses, of training steps.
final class TrainBenchmark {
  /// Number of batches to draw, so that consecutive steps see different ones.
  private static let drawnBatches = 4

  /// The least milliseconds that each part of a step took.
  struct Row {
    let granularities: Int
    let dead: Int
    var step = Double.infinity
    var encode = Double.infinity
    var decode = Double.infinity
    var auxiliary = Double.infinity
    var gradients = Double.infinity
    var adam = Double.infinity
    /// The part of `adam` that repacks the encoder.
    var repack = Double.infinity
    var tokensPerSecond = 0.0
    /// Share of the latents that were active in the last batch.
    var shareWithGradient = 0.0
    /// Loss of the last step.
    var loss = 0.0
  }

  struct Point {
    let step: Int
    let loss: Double
    let gradientNorm: Double
  }

  let dModel: Int
  private let latents: Int
  private let k: Int
  private let batch: Int
  /// [tokens, d_model], whole batches, of norm √d_model on average.
  private let activations: FloatStorage
  private let deviation: [Float]
  private let initial: DictionaryWeights
  private let adam: AdamOptimizer.Step

  /// - Throws: `TrainingError` or `CommandError.input` if the activations cannot be used.
  init(
    dModel: Int, latents: Int, k: Int, batch: Int, activations path: String?, seed: UInt64,
    learningRate: Double, weightDecay: Double
  ) throws {
    self.latents = latents
    self.k = k
    self.batch = batch
    adam = AdamOptimizer.Step(
      learningRate: learningRate, weightDecay: weightDecay, gradientNormMax: 1)
    if let path {
      let dataset = try ActivationDataset(paths: [path])
      guard dataset.tokens >= batch else {
        throw CommandError.input("\(path) has \(dataset.tokens) tokens, --batch asks for \(batch)")
      }
      self.dModel = dataset.dModel
      activations = FloatStorage(count: dataset.tokens / batch * batch * dataset.dModel)
      dataset.copyTokens(0..<dataset.tokens / batch * batch, into: activations.pointer)
      initial = DictionaryWeights(latents: latents, dModel: dataset.dModel)
    } else {
      self.dModel = dModel
      let drawn = SyntheticActivations(
        kind: .correlated, dModel: dModel, latents: latents, k: k,
        tokens: Self.drawnBatches * batch, seed: seed)
      activations = drawn.activations
      initial = DictionaryWeights(latents: latents, dModel: dModel)
      initial.encoder.pointer.update(
        from: drawn.dictionary.encoderWeights.pointer, count: latents * dModel)
      initial.decoder.pointer.update(
        from: drawn.dictionary.encoderWeights.pointer, count: latents * dModel)
    }
    let (mean, deviation) = Self.scale(activations, dModel: self.dModel)
    self.deviation = deviation
    if path == nil {
      initial.decoderBias.pointer.update(from: mean, count: dModel)
    } else {
      initial.initialize(decoderBias: mean, seed: seed)
    }
  }

  /// Scales rows to norm √d_model on average; returns the mean and deviation of each dimension.
  private static func scale(
    _ rows: FloatStorage, dModel: Int
  ) -> (mean: [Float], deviation: [Float]) {
    let tokens = rows.count / dModel
    var norms = 0.0
    for token in 0..<tokens {
      let row = UnsafeBufferPointer(start: rows.pointer + token * dModel, count: dModel)
      norms += row.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    }
    let factor = Float(Double(dModel).squareRoot() * Double(tokens) / norms)
    var (sums, squares) = (
      [Double](repeating: 0, count: dModel), [Double](repeating: 0, count: dModel)
    )
    for token in 0..<tokens {
      for i in 0..<dModel {
        rows.pointer[token * dModel + i] *= factor
        let value = Double(rows.pointer[token * dModel + i])
        sums[i] += value
        squares[i] += value * value
      }
    }
    let mean = sums.map { $0 / Double(tokens) }
    return (
      mean.map { Float($0) },
      zip(squares, mean).map { Float(max($0 / Double(tokens) - $1 * $1, 0).squareRoot()) }
    )
  }

  /// Writes the files with which a peer can take the same steps: `weights.safetensors` with W_enc, b_enc, W_dec
  /// and b_dec, latent-major, and `activations.safetensors`.
  func write(to folder: String) throws {
    try Folder.make(folder)
    try SafetensorsWriter.write(
      [
        .init("W_enc", [latents, dModel], initial.encoder),
        .init("b_enc", [latents], initial.encoderBias),
        .init("W_dec", [latents, dModel], initial.decoder),
        .init("b_dec", [dModel], initial.decoderBias),
      ], to: "\(folder)/weights.safetensors")
    try SafetensorsWriter.write(
      [.init("activations", [activations.count / dModel, dModel], activations)],
      to: "\(folder)/activations.safetensors")
  }

  /// A dictionary's training from the first weights on.
  private struct Training {
    let weights: DictionaryWeights
    let nested: NestedStep
    var optimizer: AdamOptimizer
    let batch: FloatStorage
    var objective: StepObjective
  }

  private func begin(_ granularities: [Int]) -> Training {
    let weights = DictionaryWeights(latents: latents, dModel: dModel)
    weights.encoder.pointer.update(from: initial.encoder.pointer, count: latents * dModel)
    weights.decoder.pointer.update(from: initial.decoder.pointer, count: latents * dModel)
    weights.decoderBias.pointer.update(from: initial.decoderBias.pointer, count: dModel)
    var objective = StepObjective(.topk(k: k), granularities: granularities)
    objective.auxiliary = AuxiliaryLoss()
    return Training(
      weights: weights, nested: NestedStep(weights: weights, activationDeviation: deviation),
      optimizer: AdamOptimizer(latents: latents, dModel: dModel),
      batch: FloatStorage(count: batch * dModel), objective: objective)
  }

  private func step(
    _ training: inout Training, number: Int, dead: [Int]
  ) throws -> (loss: Double, gradientNorm: Double) {
    let start = number * batch * dModel % activations.count
    training.batch.pointer.update(from: activations.pointer + start, count: batch * dModel)
    let losses = try training.nested.run(
      batch: training.batch, dead: dead, objective: training.objective)
    let norm = training.nested.update(
      &training.optimizer, adam, objective: training.objective)
    return (losses.total, norm)
  }

  /// Losses of every `every`-th step, from the first, and of the last.
  func curve(granularities: [Int], steps: Int, every: Int) throws -> [Point] {
    var training = begin(granularities)
    var points: [Point] = []
    for number in 0..<steps {
      let (loss, norm) = try step(&training, number: number, dead: [])
      if number % every == 0 || number == steps - 1 {
        points.append(Point(step: number, loss: loss, gradientNorm: norm))
      }
    }
    return points
  }

  /// Times steps; `dead` latents, at even distances, are declared dead.
  func measure(granularities: [Int], dead: Int, warmUp: Int, steps: Int) throws -> Row {
    var training = begin(granularities)
    let latents = latents
    let deadLatents = (0..<dead).map { $0 * latents / dead }
    var row = Row(granularities: granularities.count, dead: dead)
    let clock = ContinuousClock()
    for number in 0..<warmUp + steps {
      let start = clock.now
      row.loss = try step(&training, number: number, dead: deadLatents).loss
      let seconds = (clock.now - start) / .seconds(1)
      guard number >= warmUp else { continue }
      let parts = training.nested.seconds
      func least(_ part: inout Double, _ seconds: Double) { part = min(part, 1000 * seconds) }
      least(&row.step, seconds)
      least(&row.encode, parts.encode)
      least(&row.decode, parts.decode)
      least(&row.auxiliary, parts.auxiliary)
      least(&row.gradients, parts.gradients)
      least(&row.adam, parts.adam)
      least(&row.repack, parts.repack)
    }
    row.tokensPerSecond = 1000 * Double(batch) / row.step
    row.shareWithGradient =
      Double(training.nested.wasActive.reduce(0) { $0 + Int($1) }) / Double(latents)
    return row
  }
}
