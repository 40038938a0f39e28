import Glibc
import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport

/// What an encoder's weights look like.
enum WeightKind: String, CaseIterable, Sendable {
  case gaussian, correlated, constantRows, duplicateRows, zeroRows, tinyNorms, hugeNorms, anyNorms
  case denormals, signedZeros, outlierDimension, equalRows, nearlyEqualRows
}

/// What its biases look like.
enum BiasKind: String, CaseIterable, Sendable {
  case small, zero, tiny, huge, fewPositive
}

/// What a token looks like.
enum ActivationKind: String, CaseIterable, Sendable {
  case gaussian, alongRow, faint, anyNorm, zeros, signedZeros, denormals, constant, outlierDimension
  case nearMean
}

/// What is known of the activations.
enum StatisticsKind: String, CaseIterable, Sendable {
  case none, mean, meanAndDeviation, extreme
}

/// A selection rule, without its numbers.
enum RuleKind: String, CaseIterable, Sendable {
  case topk, threshold, relu
}

/// A dictionary and tokens to encode with it, all from one seed.
struct EncodeCase: CustomStringConvertible, Sendable {
  var dModel: Int
  var latents: Int
  var k: Int
  var tokens: Int
  var rule = RuleKind.topk
  var weights = WeightKind.gaussian
  var biases = BiasKind.small
  var statistics = StatisticsKind.mean
  var normalization = InputNormalization.none
  var subtractsDecoderBias = true
  var seed: UInt64

  var description: String {
    "d \(dModel) N \(latents) k \(k) \(rule) weights \(weights) biases \(biases) statistics "
      + "\(statistics) normalization \(normalization) seed \(seed)"
  }

  /// The dictionary, and its tokens: [tokens, d_model].
  func make() -> (dictionary: SparseAutoencoder, activations: [Float]) {
    var generator = SeededGenerator(seed: seed)
    let rows = makeWeights(&generator)
    let bias = makeBiases(&generator)
    var parts = SparseAutoencoder.Parts(
      encoderWeights: FloatStorage(rows), encoderBias: FloatStorage(bias),
      decoderWeights: FloatStorage(generator.normals(latents * dModel)),
      decoderBias: FloatStorage(generator.normals(dModel, scale: 0.1)), selectionRule: .relu)
    parts.inputNormalization = normalization
    parts.subtractsDecoderBias = subtractsDecoderBias
    switch statistics {
    case .none: break
    case .mean: parts.activationMean = generator.normals(dModel)
    case .meanAndDeviation:
      parts.activationMean = generator.normals(dModel)
      parts.activationDeviation = generator.normals(dModel).map { abs($0) }
    case .extreme:
      parts.activationMean = (0..<dModel).map { _ in generator.magnitude(-30...6) }
      parts.activationDeviation = (0..<dModel).map { _ in abs(generator.magnitude(-15...15)) }
    }
    let activations = (0..<tokens).flatMap { token in
      makeActivation(
        ActivationKind.allCases[token % ActivationKind.allCases.count], rows,
        mean: parts.activationMean ?? parts.decoderBias.array, &generator)
    }
    switch rule {
    case .topk: parts.selectionRule = .topk(k: k)
    case .relu: break
    case .threshold:
      parts.selectionRule = .threshold(
        makeThresholds(SparseAutoencoder(parts), activations, &generator))
    }
    return (SparseAutoencoder(parts), activations)
  }

  private func makeWeights(_ generator: inout SeededGenerator) -> [Float] {
    var rows = generator.normals(latents * dModel, scale: 1 / Float(dModel).squareRoot())
    func change(_ body: (_ latent: Int, _ row: inout ArraySlice<Float>) -> Void) {
      for latent in 0..<latents {
        let range = latent * dModel..<(latent + 1) * dModel
        var row = rows[range]
        body(latent, &row)
        rows.replaceSubrange(range, with: row)
      }
    }
    func scale(_ exponents: ClosedRange<Float>) {
      change { _, row in
        let factor = generator.magnitude(exponents)
        for i in row.indices { row[i] *= factor }
      }
    }
    switch weights {
    case .gaussian: break
    case .correlated:
      let atoms = rows.prefix(min(3, latents) * dModel)
      change { latent, row in
        let atom = latent % min(3, latents) * dModel
        for i in row.indices { row[i] = atoms[atom + i - row.startIndex] + 0.001 * row[i] }
      }
    case .constantRows: change { _, row in for i in row.indices { row[i] = row.first! } }
    case .duplicateRows:
      let distinct = rows.prefix(min(5, latents) * dModel)
      change { latent, row in
        for i in row.indices {
          row[i] = distinct[latent % min(5, latents) * dModel + i - row.startIndex]
        }
      }
    case .zeroRows:
      change { latent, row in
        if latent % 2 == 0 { for i in row.indices { row[i] = latent % 4 == 0 ? 0 : -0.0 } }
      }
    case .tinyNorms: scale(-30 ... -16)
    case .hugeNorms: scale(8...15)
    case .anyNorms: scale(-30...15)
    case .denormals:
      change { _, row in for i in row.indices { row[i] *= .leastNonzeroMagnitude * 7000 } }
    case .signedZeros:
      change { _, row in for i in row.indices { row[i] = abs(row[i]) < 0.1 ? row[i] : row[i] * 0 } }
    case .outlierDimension: change { _, row in row[row.startIndex + dModel / 2] *= 1e4 }
    case .equalRows, .nearlyEqualRows:
      let one = rows.prefix(dModel)
      change { latent, row in
        for i in row.indices { row[i] = one[i - row.startIndex] }
        guard weights == .nearlyEqualRows else { return }
        let i = row.startIndex + latent % dModel
        row[i] = latent % 3 == 0 ? row[i].nextUp : row[i].nextDown
      }
    }
    return rows
  }

  private func makeBiases(_ generator: inout SeededGenerator) -> [Float] {
    let equal = weights == .equalRows || weights == .nearlyEqualRows
    let made = (0..<latents).map { latent -> Float in
      switch biases {
      case .small: generator.normal() * 0.1
      case .zero: latent % 2 == 0 ? 0 : -0.0
      case .tiny: generator.magnitude(-40 ... -15)
      case .huge: latent % 3 == 0 ? 1e20 : latent % 3 == 1 ? -1e20 : generator.normal()
      case .fewPositive: latent % 40 == 3 ? 5 : -50
      }
    }
    return equal ? Array(repeating: made[0], count: latents) : made
  }

  private func makeActivation(
    _ kind: ActivationKind, _ rows: [Float], mean: [Float], _ generator: inout SeededGenerator
  ) -> [Float] {
    var activation = generator.normals(dModel, scale: 2)
    switch kind {
    case .gaussian: break
    case .alongRow:
      let latent = Int.random(in: 0..<latents, using: &generator)
      for i in 0..<dModel { activation[i] = 3 * rows[latent * dModel + i] + 0.01 * activation[i] }
    case .faint:
      let factor = generator.magnitude(-24 ... -14)
      for i in 0..<dModel { activation[i] *= factor }
    case .anyNorm:
      let factor = generator.magnitude(-30...12)
      for i in 0..<dModel { activation[i] *= factor }
    case .zeros: activation = [Float](repeating: 0, count: dModel)
    case .signedZeros:
      for i in 0..<dModel { activation[i] = i % 7 == 0 ? activation[i] : activation[i] * 0 }
    case .denormals: for i in 0..<dModel { activation[i] *= .leastNonzeroMagnitude * 700 }
    case .constant: for i in 0..<dModel { activation[i] = activation[0] }
    case .outlierDimension: activation[dModel / 2] *= 1e4
    case .nearMean:
      // Little is left to quantise, while sums round as those of any other token.
      activation = mean
      activation[dModel / 2] = activation[dModel / 2].nextUp
    }
    return activation
  }

  /// Negative, zero and huge ones; and such as equal a pre-activation, which then is not active.
  private func makeThresholds(
    _ dictionary: SparseAutoencoder, _ activations: [Float], _ generator: inout SeededGenerator
  ) -> [Float] {
    var thresholds = (0..<latents).map { latent -> Float in
      switch latent % 8 {
      case 0: -1
      case 1: 0
      case 2: 1e30
      case 3: generator.magnitude(-35 ... -5)
      default: generator.normal() * 0.5
      }
    }
    guard
      let codes = try? ReferenceEncoder(dictionary).encode(
        Array(activations.prefix(dModel)), granularity: latents)
    else { return thresholds }
    for (latent, value) in zip(codes.indices, codes.values) where latent % 2 == 0 {
      thresholds[Int(latent)] = latent % 4 == 0 ? value : value.nextDown
    }
    return thresholds
  }
}
