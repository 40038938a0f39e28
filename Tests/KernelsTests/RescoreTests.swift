import CGranuleKernels
import TestSupport
import Testing

@Suite("Pre-activations equal the plain sum to the bit")
struct RescoreTests {
  /// Rows that end where their memory does, so that nothing is read beyond.
  struct Rows {
    var dModel: Int
    var latents: Int
    var tokens: Int
    var weights: [Float]
    var biases: [Float]
    var inputs: [Float]

    init(_ dModel: Int, latents: Int, tokens: Int, scale: Float, _ generator: inout SeededGenerator)
    {
      self.dModel = dModel
      self.latents = latents
      self.tokens = tokens
      weights = generator.normals(latents * dModel, scale: scale)
      biases = generator.normals(latents, scale: scale)
      inputs = generator.normals(tokens * dModel, scale: 1 / scale)
    }

    func expected(latent: Int, token: Int) -> Float {
      weights.withUnsafeBufferPointer { weights in
        inputs.withUnsafeBufferPointer { inputs in
          gk_pre_activation_reference(
            weights.baseAddress! + latent * dModel, inputs.baseAddress! + token * dModel, dModel,
            biases[latent])
        }
      }
    }
  }

  static let sizes = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 100, 592, 1021]

  @Test("the oracle itself adds 16 sums, then pairs of them")
  func oracle() {
    var generator = SeededGenerator(seed: 71)
    for dModel in Self.sizes {
      let rows = Rows(dModel, latents: 1, tokens: 1, scale: 1, &generator)
      var sums = [Float](repeating: 0, count: 16)
      for i in 0..<dModel { sums[i % 16].addProduct(rows.weights[i], rows.inputs[i]) }
      for half in [8, 4, 2, 1] { for l in 0..<half { sums[l] += sums[l + half] } }
      #expect(
        rows.expected(latent: 0, token: 0).bitPattern == (sums[0] + rows.biases[0]).bitPattern,
        "d \(dModel)")
    }
  }

  @Test("of pairs, in any order and however many share a latent", arguments: supportedCPUs)
  func pairs(cpu: gk_cpu) {
    var generator = SeededGenerator(seed: 72)
    for dModel in Self.sizes {
      for scale in [Float(1), 1e-20, 1e15] {
        let rows = Rows(dModel, latents: 13, tokens: 30, scale: scale, &generator)
        var pairs: [gk_pair] = []
        for _ in 0..<20 {
          let latent = UInt32.random(in: 0..<13, using: &generator)
          for _ in 0..<Int.random(in: 1...20, using: &generator) {
            pairs.append(
              gk_pair(
                latent: latent, token: UInt32.random(in: 0..<30, using: &generator), slot: 0))
          }
        }
        let slots = (0..<pairs.count).shuffled(using: &generator)
        for i in pairs.indices { pairs[i].slot = UInt32(slots[i]) }
        var values = [Float](repeating: .nan, count: pairs.count)
        gk_rescore(
          cpu, rows.weights, rows.biases, rows.inputs, dModel, pairs, pairs.count, &values)
        let wrong = pairs.filter {
          values[Int($0.slot)].bitPattern
            != rows.expected(latent: Int($0.latent), token: Int($0.token)).bitPattern
        }
        #expect(wrong.isEmpty, "\(cpu) d \(dModel) scale \(scale): \(wrong.count) differ")
      }
    }
  }

  @Test("of a panel, kept from the threshold on and above the floor", arguments: supportedCPUs)
  func panel(cpu: gk_cpu) {
    var generator = SeededGenerator(seed: 73)
    for dModel in Self.sizes {
      for count in 1...13 {
        let rows = Rows(dModel, latents: 70, tokens: count, scale: 1, &generator)
        let first = Int.random(in: 0..<70, using: &generator)
        let end = Int.random(in: first + 1...min(70, first + 64), using: &generator)
        for floors in [nil, generator.normals(70)] {
          check(cpu, rows, first..<end, floors, &generator)
        }
      }
    }
  }

  private func check(
    _ cpu: gk_cpu, _ rows: Rows, _ latents: Range<Int>, _ floors: [Float]?,
    _ generator: inout SeededGenerator
  ) {
    // Sixteen more may be written than are kept.
    let room = 2 * latents.count + 16
    let bounds = UnsafeMutablePointer<Float>.allocate(capacity: rows.tokens * room)
    let indices = UnsafeMutablePointer<UInt32>.allocate(capacity: rows.tokens * room)
    defer {
      bounds.deallocate()
      indices.deallocate()
    }
    var tokens = (0..<rows.tokens).map { t in
      var token = gk_screened_token()
      token.threshold =
        [0, -.infinity, .infinity, rows.expected(latent: latents.lowerBound, token: t)]
        .randomElement(using: &generator)!
      token.bounds = bounds + t * room
      token.latents = indices + t * room
      return token
    }
    // Twice: the second time appends.
    for _ in 0..<2 {
      gk_score_panel(
        cpu, rows.weights, rows.biases, floors, latents.lowerBound, latents.upperBound, rows.inputs,
        rows.dModel, &tokens, rows.tokens)
    }
    for (t, token) in tokens.enumerated() {
      let once = latents.compactMap { latent -> (UInt32, UInt32)? in
        let value = rows.expected(latent: latent, token: t)
        guard value >= token.threshold, floors.map({ value > $0[latent] }) ?? true else {
          return nil
        }
        return (UInt32(latent), value.bitPattern)
      }
      let expected = once + once
      let found = (0..<Int(token.count)).map { (token.latents[$0], token.bounds[$0].bitPattern) }
      #expect(
        found.elementsEqual(expected, by: ==),
        "\(cpu) d \(rows.dModel) latents \(latents) floors \(floors != nil) token \(t)")
    }
  }
}
