import CGranuleKernels
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Lengths around every block size of the kernels.
private let lengths = [1, 2, 8, 15, 16, 17, 31, 64, 100, 511, 512, 513, 1536, 2049]

@Suite("The language model's kernels")
struct LanguageModelKernelTests {
  @Test("e^x is within a relative 3e-7 wherever float32 can hold it, and 0 below")
  func exponential() {
    var worst = 0.0
    var values: [Float] = []
    for step in -870_000...887_000 { values.append(Float(step) * 1e-4) }
    var results = values
    _ = gk_exponentials(&results, results.count, 0, 1)
    for (power, result) in zip(values, results) {
      let exact = exp(Double(power))
      worst = max(worst, abs(Double(result) - exact) / exact)
    }
    #expect(worst < 3e-7, "\(worst)")
    var special: [Float] = [-87.5, -1e30, -.infinity, .nan, 0]
    _ = gk_exponentials(&special, special.count, 0, 1)
    #expect(special[0] == 0 && special[1] == 0 && special[2] == 0)
    #expect(special[3].isNaN && special[4] == 1)
  }

  @Test("exponentials and their sum are those of the plain version", arguments: lengths)
  func exponentials(length: Int) {
    var generator = SeededGenerator(seed: UInt64(length))
    let values = generator.normals(length, scale: 10)
    let maximum = gk_maximum(values, length)
    #expect(maximum == values.max())
    var (fast, plain) = (values, values)
    let sum = gk_exponentials(&fast, length, maximum, 0.25)
    let plainSum = gk_exponentials_reference(&plain, length, maximum, 0.25)
    #expect(abs(sum - plainSum) <= 1e-6 * plainSum)
    for (fast, plain) in zip(fast, plain) { #expect(abs(fast - plain) <= 4e-7 * plain + 1e-37) }
  }

  @Test("SwiGLU and its gradient are those of the plain versions", arguments: lengths)
  func swiglu(length: Int) {
    var generator = SeededGenerator(seed: UInt64(length))
    var gate = generator.normals(length, scale: 8)
    // Far beyond where SiLU is 0 or the identity.
    gate[0] = -200
    gate[length - 1] = length > 1 ? 200 : -200
    let up = generator.normals(length)
    let gradient = generator.normals(length)
    var (fast, plain) = (gate, gate)
    gk_swiglu(gate, up, &fast, length)
    gk_swiglu_reference(gate, up, &plain, length)
    expectClose(fast, plain)
    var (fastGate, plainGate, fastUp, plainUp) = (gate, gate, up, up)
    gk_swiglu_gradient(&fastGate, &fastUp, gradient, length)
    gk_swiglu_gradient_reference(&plainGate, &plainUp, gradient, length)
    // SiLU's slope has a zero, near which it is a difference of numbers of the gradient's size.
    expectClose(fastGate, plainGate, sizes: zip(gradient, up).map { abs($0 * $1) })
    expectClose(fastUp, plainUp)
  }

  @Test("RMSNorm is that of the plain version", arguments: lengths)
  func norm(length: Int) {
    var generator = SeededGenerator(seed: UInt64(length))
    let input = generator.normals(length, scale: 50)
    let weight = generator.normals(length)
    var (fast, plain) = (input, input)
    gk_rms_norm(input, weight, 1e-5, length, &fast)
    gk_rms_norm_reference(input, weight, 1e-5, length, &plain)
    expectClose(fast, plain)
  }

  @Test(
    "rotating there and back gives what was there", arguments: [(1, 2), (3, 8), (2, 64), (1, 22)])
  func rotation(heads: Int, headDimension: Int) {
    var generator = SeededGenerator(seed: UInt64(headDimension))
    let values = generator.normals(heads * headDimension)
    var (cosines, sines): ([Float], [Float]) = ([], [])
    for _ in 0..<headDimension / 2 {
      let angle = Float.random(in: 0..<6, using: &generator)
      cosines += [cos(angle), cos(angle)]
      sines += [-sin(angle), sin(angle)]
    }
    var rotated = values
    gk_rotate_pairs(&rotated, heads, headDimension, cosines, sines, 1)
    for first in stride(from: 0, to: values.count, by: 2) {
      let (c, s) = (cosines[first % headDimension], sines[first % headDimension + 1])
      #expect(abs(rotated[first] - (values[first] * c - values[first + 1] * s)) < 1e-6)
      #expect(abs(rotated[first + 1] - (values[first] * s + values[first + 1] * c)) < 1e-6)
    }
    gk_rotate_pairs(&rotated, heads, headDimension, cosines, sines, -1)
    for (back, value) in zip(rotated, values) { #expect(abs(back - value) < 1e-6) }
  }

  /// Within a relative 2e-6 of `plain`, or of `sizes` where given.
  private func expectClose(_ fast: [Float], _ plain: [Float], sizes: [Float]? = nil) {
    for (index, (fast, plain)) in zip(fast, plain).enumerated() {
      let size = max(abs(plain), sizes?[index] ?? 0)
      #expect(abs(fast - plain) <= 2e-6 * size + 1e-30)
    }
  }
}
