import CGranuleKernels
import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

@Suite("The screen")
struct ScreenTests {
  static let cpus: [gk_cpu] = [
    gk_cpu_portable, gk_cpu_avx2, gk_cpu_avx512,
  ].filter { gk_cpu_supports($0) != 0 }

  @Test(
    "never bounds a pre-activation from below: neither the true one nor the computed one",
    arguments: WeightKind.allCases)
  func soundness(weights: WeightKind) throws {
    var generator = SeededGenerator(seed: 61)
    for rule in RuleKind.allCases {
      for biases in BiasKind.allCases {
        for statistics in StatisticsKind.allCases {
          let encodeCase = EncodeCase(
            dModel: [1, 5, 16, 40, 63, 592].randomElement(using: &generator)!, latents: 100, k: 5,
            tokens: 2 * ActivationKind.allCases.count, rule: rule, weights: weights,
            biases: biases, statistics: statistics,
            normalization: [InputNormalization.none, .none, .layerNorm, .constantNormRescale]
              .randomElement(using: &generator)!,
            subtractsDecoderBias: Bool.random(using: &generator), seed: generator.next())
          let (dictionary, activations) = encodeCase.make()
          for cpu in EncoderCPU.supported {
            try check(dictionary.encoder(cpu), activations, "\(encodeCase) \(cpu)")
          }
        }
      }
    }
  }

  private func check(
    _ encoder: SparseEncoder, _ activations: [Float], _ what: String
  ) throws {
    let dictionary = encoder.dictionary
    let d = dictionary.dModel
    var floors = [Float](repeating: 0, count: dictionary.latents)
    if case .threshold(let thresholds) = dictionary.selectionRule {
      floors = thresholds.map { max($0, 0) }
    }
    for token in 0..<activations.count / d {
      let known = try encoder.screenBounds(
        Array(activations[token * d..<(token + 1) * d]))
      guard let bounds = known.upperBounds else { continue }
      for latent in 0..<dictionary.latents {
        let row = dictionary.encoderWeights.pointer + latent * d
        let bias = dictionary.encoderBias.pointer[latent]
        var exact = Double(bias)
        for i in 0..<d { exact += Double(row[i]) * Double(known.input[i]) }
        let computed = Double(gk_pre_activation_reference(row, known.input, d, bias))
        let floor = Double(floors[latent])
        // Only latents that may be active need a bound.
        guard max(exact, computed) > floor else { continue }
        let bound = Double(bounds[latent])
        guard bound >= max(exact, computed) - floor || bound.isNaN else {
          Issue.record(
            "\(what) token \(token) latent \(latent): \(bound) bounds \(exact) \(computed) − \(floor)"
          )
          return
        }
      }
    }
  }

  /// A screen of random bytes.
  private struct RandomScreen {
    var weights: [UInt8]
    var scales: [Float], biases: [Float], residualNorms: [Float], norms: [Float]
    var dPadded: Int
    var levels: Int

    init(panels: Int, dPadded: Int, levels: Int, _ generator: inout SeededGenerator) {
      self.dPadded = dPadded
      self.levels = levels
      weights = (0..<panels * 64 * dPadded).map { _ in
        // The extremes often: they are what overflows.
        let value = [1, 2 * levels + 1, Int.random(in: 1...2 * levels + 1, using: &generator)]
        return UInt8(value.randomElement(using: &generator)!)
      }
      scales = generator.normals(panels * 64, scale: 1e-3).map { abs($0) }
      biases = generator.normals(panels * 64)
      residualNorms = generator.normals(panels * 64, scale: 0.01).map { abs($0) }
      norms = generator.normals(panels * 64, scale: 0.1).map { abs($0) }
      biases[3] = .infinity
      biases[5] = -.infinity
      biases[7] = .nan
    }
  }

  @Test("keeps what the plain loop keeps, with the same bounds", arguments: cpus)
  func panels(cpu: gk_cpu) {
    var generator = SeededGenerator(seed: 62)
    for dPadded in [16, 32, 48, 592, 1024] {
      // Products of 8 bits would overflow AVX2's 16.
      let random = RandomScreen(
        panels: 2, dPadded: dPadded, levels: cpu == gk_cpu_avx2 ? 63 : 127, &generator)
      for count in 1...15 {
        let inputs = (0..<count * dPadded).map { _ in
          let value = [-127, 127, Int.random(in: -127...127, using: &generator)]
          return Int8(value.randomElement(using: &generator)!)
        }
        compare(cpu, random, inputs, count, &generator)
      }
    }
  }

  private func compare(
    _ cpu: gk_cpu, _ random: RandomScreen, _ inputs: [Int8], _ count: Int,
    _ generator: inout SeededGenerator
  ) {
    let room = 128 + 16
    let bounds = UnsafeMutablePointer<Float>.allocate(capacity: count * room)
    let latents = UnsafeMutablePointer<UInt32>.allocate(capacity: count * room)
    defer {
      bounds.deallocate()
      latents.deallocate()
    }
    var tokens = (0..<count).map { t in
      var token = gk_screened_token()
      token.scale = abs(generator.normal()) * 1e-2
      token.norm = abs(generator.normal())
      token.residual_norm = abs(generator.normal())
      token.threshold = [-.infinity, -1, 0, 0.5, .infinity].randomElement(using: &generator)!
      token.sum = inputs[t * random.dPadded..<(t + 1) * random.dPadded].reduce(0) { $0 + Int32($1) }
      token.bounds = bounds + t * room
      token.latents = latents + t * room
      return token
    }
    random.weights.withUnsafeBufferPointer { weights in
      var screen = gk_screen()
      screen.weights = weights.baseAddress
      screen.d_padded = random.dPadded
      screen.offset = Int32(random.levels + 1)
      random.scales.withUnsafeBufferPointer { scales in
        random.biases.withUnsafeBufferPointer { biases in
          random.residualNorms.withUnsafeBufferPointer { residualNorms in
            random.norms.withUnsafeBufferPointer { norms in
              screen.scales = scales.baseAddress
              screen.biases = biases.baseAddress
              screen.residual_norms = residualNorms.baseAddress
              screen.norms = norms.baseAddress
              for panel in 0..<2 {
                gk_screen_panel(cpu, &screen, panel, inputs, &tokens, count)
              }
            }
          }
        }
      }
    }
    for t in 0..<count {
      let expected = plain(
        random, tokens[t], Array(inputs[t * random.dPadded..<(t + 1) * random.dPadded]))
      let found = (0..<Int(tokens[t].count)).map {
        (tokens[t].latents[$0], tokens[t].bounds[$0].bitPattern)
      }
      #expect(
        found.map(\.0) == expected.map(\.0), "\(cpu) d \(random.dPadded) count \(count) token \(t)")
      #expect(
        zip(found, expected).allSatisfy { $0.1 == $1.1 || $0.0 == 7 },
        "\(cpu) d \(random.dPadded) count \(count) token \(t): other bounds")
    }
  }

  /// Latents kept and the bits of their bounds.
  private func plain(
    _ random: RandomScreen, _ token: gk_screened_token, _ input: [Int8]
  ) -> [(UInt32, UInt32)] {
    (0..<128).compactMap { latent in
      var product = 0
      for i in 0..<random.dPadded {
        let place = (latent / 64 * random.dPadded + i / 4 * 4) * 64 + latent % 64 * 4 + i % 4
        product += (Int(random.weights[place]) - random.levels - 1) * Int(input[i])
      }
      var bound = random.biases[latent].addingProduct(random.residualNorms[latent], token.norm)
      bound.addProduct(random.norms[latent], token.residual_norm)
      bound.addProduct(random.scales[latent] * token.scale, Float(product))
      return bound < token.threshold ? nil : (UInt32(latent), bound.bitPattern)
    }
  }
}
