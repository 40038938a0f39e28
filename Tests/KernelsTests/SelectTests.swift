import CGranuleKernels
import TestSupport
import Testing

@Suite("Selecting latents equals plain selection")
struct SelectTests {
  /// Values of every kind, many of them equal.
  static func values(_ count: Int, _ generator: inout SeededGenerator) -> [Float] {
    let kind = Int.random(in: 0..<6, using: &generator)
    let special: [Float] = [
      0, -0.0, .leastNonzeroMagnitude, -.leastNonzeroMagnitude, .leastNormalMagnitude,
      .greatestFiniteMagnitude, -.greatestFiniteMagnitude, .infinity, -.infinity, 1,
      Float(1).nextUp, Float(1).nextDown, 1e-30,
    ]
    return (0..<count).map { _ in
      switch kind {
      case 0: generator.normal()
      case 1: generator.normal().rounded()
      case 2: special.randomElement(using: &generator)!
      case 3: 1
      case 4: generator.magnitude(-38...38)
      default: -abs(generator.normal())
      }
    }
  }

  static func kthLargestPositive(_ values: [Float], _ k: Int) -> Float {
    let positive = values.filter { $0 > 0 }.sorted(by: >)
    return positive.count >= k ? positive[k - 1] : 0
  }

  /// Counts and k to try.
  static func sizes(_ generator: inout SeededGenerator) -> [(count: Int, k: Int)] {
    (0..<3000).map { _ in
      let count = Int.random(
        in: 0...[3, 20, 70, 1000].randomElement(using: &generator)!, using: &generator)
      return (
        count,
        [1, max(1, count), count + 1, Int.random(in: 1...count + 1, using: &generator)]
          .randomElement(using: &generator)!
      )
    }
  }

  @Test("the k-th largest")
  func kthLargest() {
    var generator = SeededGenerator(seed: 81)
    for (count, k) in Self.sizes(&generator) {
      let values = Self.values(count, &generator)
      let found = gk_kth_largest_positive(values, count, k)
      #expect(found == Self.kthLargestPositive(values, k), "count \(count) k \(k)")
    }
  }

  @Test("the k largest, of equal ones the first")
  func keepLargest() {
    var generator = SeededGenerator(seed: 82)
    for (count, k) in Self.sizes(&generator) {
      var values = Self.values(count, &generator)
      var latents = (0..<UInt32(count)).map { $0 * 3 + 1 }
      let places = (0..<count).filter { values[$0] > 0 }.sorted {
        (-values[$0], $0) < (-values[$1], $1)
      }.prefix(k).sorted()
      let expected = places.map { (latents[$0], values[$0]) }
      let expectedKth = Self.kthLargestPositive(values, k)
      var kth = Float.nan
      let kept = gk_keep_largest(&values, &latents, count, k, &kth)
      #expect(kth == expectedKth, "count \(count) k \(k)")
      #expect(
        zip(latents, values).prefix(kept).elementsEqual(expected, by: ==), "count \(count) k \(k)")
    }
  }

  @Test("those above thresholds, or above 0")
  func keepAbove() {
    var generator = SeededGenerator(seed: 83)
    for (count, _) in Self.sizes(&generator) {
      for hasThresholds in [false, true] {
        var values = Self.values(count, &generator)
        var latents = (0..<UInt32(count)).map { $0 }.shuffled(using: &generator)
        var thresholds = Self.values(count, &generator)
        // Some equal the value: then it is not above.
        for i in 0..<count where i % 3 == 0 { thresholds[Int(latents[i])] = values[i] }
        let expected = (0..<count).filter {
          values[$0] > (hasThresholds ? thresholds[Int(latents[$0])] : 0)
        }.map { (latents[$0], values[$0]) }
        let kept = gk_keep_above(&values, &latents, count, hasThresholds ? thresholds : nil)
        #expect(
          zip(latents, values).prefix(kept).elementsEqual(expected, by: ==),
          "count \(count) thresholds \(hasThresholds)")
      }
    }
  }

  /// A token's list, with room for 16 more as `gk_raise_threshold` needs.
  private func raise(
    _ cpu: gk_cpu, _ values: [Float], latents: [UInt32], threshold: Float, k: Int,
    _ screen: (errors: [Float], margin: Float)?
  ) -> (threshold: Float, kept: [(UInt32, Float)]) {
    var bounds = values + [Float](repeating: .nan, count: 16)
    var indices = latents + [UInt32](repeating: .max, count: 16)
    var scratch = [Float](repeating: .nan, count: max(values.count, 1))
    return bounds.withUnsafeMutableBufferPointer { bounds in
      indices.withUnsafeMutableBufferPointer { indices in
        var token = gk_screened_token()
        token.threshold = threshold
        token.norm = 2
        token.residual_norm = 0.5
        token.count = UInt32(values.count)
        token.bounds = bounds.baseAddress
        token.latents = indices.baseAddress
        if let screen {
          // error = residual norm · 2 + norm · 0.5
          screen.errors.map { $0 / 4 }.withUnsafeBufferPointer { residualNorms in
            screen.errors.withUnsafeBufferPointer { norms in
              var parameters = gk_screen()
              parameters.residual_norms = residualNorms.baseAddress
              parameters.norms = norms.baseAddress
              gk_raise_threshold(cpu, &token, k, &parameters, screen.margin, &scratch)
            }
          }
        } else {
          gk_raise_threshold(cpu, &token, k, nil, 0, nil)
        }
        return (
          token.threshold, (0..<Int(token.count)).map { (indices[$0], bounds[$0]) }
        )
      }
    }
  }

  @Test("thresholds of scored latents rise to the k-th largest", arguments: supportedCPUs)
  func raiseScored(cpu: gk_cpu) {
    var generator = SeededGenerator(seed: 84)
    for (count, k) in Self.sizes(&generator) {
      let values = Self.values(count, &generator)
      let latents = (0..<UInt32(count)).map { $0 * 2 }
      let before = [0, 0.5, Float.infinity].randomElement(using: &generator)!
      let raised = raise(cpu, values, latents: latents, threshold: before, k: k, nil)
      let after = max(before, Self.kthLargestPositive(values, k))
      let expected = zip(latents, values).filter { after == before || $0.1 >= after }
      #expect(raised.threshold == after, "\(cpu) count \(count) k \(k)")
      #expect(raised.kept.elementsEqual(expected, by: ==), "\(cpu) count \(count) k \(k)")
    }
  }

  @Test("thresholds of screened latents rise to a guess", arguments: supportedCPUs)
  func raiseScreened(cpu: gk_cpu) {
    var generator = SeededGenerator(seed: 85)
    for (count, k) in Self.sizes(&generator) where count > 0 {
      let values = generator.normals(count)
      let latents = (0..<UInt32(count)).map { $0 }.shuffled(using: &generator)
      let errors = generator.normals(count).map { abs($0) * 0.3 }
      let margin = [0, 0.1, -1, 50].randomElement(using: &generator)! as Float
      let raised = raise(cpu, values, latents: latents, threshold: 0, k: k, (errors, margin))
      let estimates = zip(values, latents).map { $0 - errors[Int($1)] }
      let mean = latents.reduce(0) { $0 + Double(errors[Int($1)]) } / Double(count)
      var after = 0.0
      if count >= k {
        after = max(0, Double(Self.kthLargestPositive(estimates, k)) - Double(margin) * mean)
      }
      #expect(
        abs(Double(raised.threshold) - after) <= 1e-4 * (1 + abs(Double(margin))),
        "\(cpu) count \(count) k \(k) margin \(margin)")
      let expected = zip(latents, values).filter {
        raised.threshold == 0 || !($0.1 < raised.threshold)
      }
      #expect(
        raised.kept.elementsEqual(expected, by: ==), "\(cpu) count \(count) k \(k) margin \(margin)"
      )
    }
  }

  @Test("latents without a bound stop thresholds from rising to them", arguments: supportedCPUs)
  func raiseUnbounded(cpu: gk_cpu) {
    let values: [Float] = [.infinity, 1, .infinity, 3, 2]
    let errors = [Float](repeating: 0, count: 5)
    let latents: [UInt32] = [0, 1, 2, 3, 4]
    let stopped = raise(cpu, values, latents: latents, threshold: 0, k: 2, (errors, 1))
    #expect(stopped.threshold == 0 && stopped.kept.count == 5)
    let risen = raise(cpu, values, latents: latents, threshold: 0, k: 3, (errors, 1))
    #expect(risen.threshold == 3 && risen.kept.map(\.0) == [0, 2, 3])
  }
}
