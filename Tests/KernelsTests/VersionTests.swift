import CGranuleKernels
import CKernelVersions
import TestSupport
import Testing

/// The CPUs whose kernels this machine can run.
let supportedCPUs: [gk_cpu] = [gk_cpu_portable, gk_cpu_avx2, gk_cpu_avx512].filter {
  gk_cpu_supports($0) != 0
}

/// Sizes around those of vectors, of four vectors and of strips.
private let sizes = [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 130, 511, 513, 1025]

@Suite("Every version of a kernel gives the same bits")
struct VersionTests {
  /// The results, as bits, of one version on inputs that the generator determines.
  typealias Run =
    @Sendable (_ kernels: kernel_set, _ size: Int, _ random: inout SeededGenerator) -> [UInt64]

  private static let runs: [(name: String, run: Run)] = [
    ("conversions", conversions), ("GGML formats", dequantization), ("products", products),
    ("selection", selection), ("decode", decode), ("gradients of codes", codeGradients),
    ("strips", strips), ("statistics", statistics), ("Adam", adam), ("softmax", softmax),
    ("SwiGLU", swiglu), ("norms", norms),
  ]

  @Test("of each CPU that this machine supports, and the one chosen", arguments: runs.map(\.name))
  func versions(name: String) {
    let run = Self.runs.first { $0.name == name }!.run
    for size in sizes {
      func bits(_ kernels: kernel_set) -> [UInt64] {
        var random = SeededGenerator(seed: UInt64(size))
        return run(kernels, size, &random)
      }
      let expected = bits(kernels_for(gk_cpu_portable))
      for cpu in supportedCPUs { #expect(bits(kernels_for(cpu)) == expected, "\(cpu), \(size)") }
      #expect(bits(kernels_chosen()) == expected, "chosen, \(size)")
    }
  }

  @Test("a panel is as large as the screen and the quantiser have it")
  func panel() {
    #expect(gk_panel_latents == 64)
  }

  // MARK: What is run

  private static let conversions: Run = { kernels, size, random in
    let halves = (0..<size).map { _ in UInt16.random(in: 0..<0x7c00, using: &random) }
    var (floats, brains) = ([Float](repeating: 0, count: size), [Float](repeating: 0, count: size))
    kernels.float32_from_float16(halves, &floats, size)
    kernels.float32_from_bfloat16(halves, &brains, size)
    var back = [UInt16](repeating: 0, count: size)
    let held = kernels.float16_from_float32(random.normals(size, scale: 30), &back, size)
    let notHeld = kernels.float16_from_float32(random.normals(size, scale: 60_000), &back, size)
    return bits(floats, brains) + back.map { UInt64($0) } + [UInt64(held), UInt64(notHeld)]
  }

  private static let dequantization: Run = { kernels, size, random in
    let blocks = (size + 63) / 64
    var results: [[Float]] = []
    let formats:
      [(bytes: Int, elements: Int, (UnsafeRawPointer, UnsafeMutablePointer<Float>) -> Void)] = [
        (18, 32, { kernels.float32_from_q4_0($0, $1, blocks) }),
        (20, 32, { kernels.float32_from_q4_1($0, $1, blocks) }),
        (34, 32, { kernels.float32_from_q8_0($0, $1, blocks) }),
        (144, 256, { kernels.float32_from_q4_k($0, $1, blocks) }),
        (210, 256, { kernels.float32_from_q6_k($0, $1, blocks) }),
      ]
    for (bytes, elements, convert) in formats {
      // Below 0x7c every half is finite.
      let packed = (0..<blocks * bytes).map { _ in UInt8.random(in: 0..<0x7c, using: &random) }
      var floats = [Float](repeating: 0, count: blocks * elements)
      convert(packed, &floats)
      results.append(floats)
    }
    return results.flatMap { bits($0) }
  }

  private static let products: Run = { kernels, size, random in
    let (a, b) = (random.normals(size), random.normals(size))
    return bits([
      kernels.dot(a, b, size), kernels.squared_distance(a, b, size),
      kernels.pre_activation_reference(a, b, size, 0.25),
    ])
  }

  private static let selection: Run = { kernels, size, random in
    let values = random.normals(size).map { ($0 * 8).rounded() / 8 }
    return bits(
      [1, 2, size / 3 + 1, size, size + 1].map { kernels.kth_largest_positive(values, size, $0) }
        + [kernels.maximum(values, size)])
  }

  private static let decode: Run = { kernels, size, random in
    let (latents, prefixes) = (40, 3)
    let indices = (0..<UInt32(latents)).filter { _ in Bool.random(using: &random) }
    let decoder = random.normals(latents * size)
    var sum = [Float](repeating: 0, count: size)
    var errors = [Float](repeating: 0, count: prefixes)
    var reconstructions = [Float](repeating: 0, count: prefixes * size)
    kernels.nested_decode(
      decoder, random.normals(size), size, indices, random.normals(indices.count), indices.count,
      [7, 20, 40], prefixes, random.normals(size), 0.75, 0.125, &sum, &errors, &reconstructions,
      size)
    return bits(sum, errors, reconstructions)
  }

  private static let codeGradients: Run = { kernels, size, random in
    var residuals = random.normals(3 * size)
    kernels.suffix_residuals(&residuals, 3, size, random.normals(size), random.normals(3))
    let rows = random.normals(9 * size)
    let indices: [UInt32] = [8, 0, 3, 3, 5]
    var sum = [Float](repeating: 0, count: size)
    kernels.weighted_rows_sum(rows, size, indices, random.normals(5), 5, &sum)
    var products = [Float](repeating: 0, count: 5)
    kernels.latent_products(
      rows, size, indices, 5, [0, 0, 1, 1, 1, 2, 2, 2, 2], residuals, &products)
    return bits(residuals, sum, products)
  }

  private static let strips: Run = { kernels, size, random in
    let columns = Int(gk_strip_columns)
    let (tokens, latents, count) = (6, 9, (size + columns - 1) / columns)
    // Strips of 64-byte vectors: allocated by hand, since an array's may lie anywhere.
    func strips(_ tokens: Int) -> UnsafeMutablePointer<Float> {
      let bytes = count * tokens * columns * 4
      return UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        .bindMemory(to: Float.self, capacity: bytes / 4)
    }
    let (inputs, returned) = (strips(tokens), strips(tokens))
    defer {
      inputs.deallocate()
      returned.deallocate()
    }
    for token in 0..<tokens {
      for slab in [inputs, returned] {
        kernels.cut_row(
          random.normals(size), size, slab + token * columns, tokens * columns)
      }
    }
    let offsets = (0...UInt32(latents)).map { $0 / 2 * 3 }
    let entries = (0..<offsets[latents]).map { _ in
      gk_entry(
        token: UInt32.random(in: 0..<UInt32(tokens), using: &random), value: random.normal(),
        gradient: random.normal())
    }
    var encoder = [Float](repeating: 1, count: latents * size)
    var (decoder, squares) = (encoder, [Float](repeating: 1, count: count * latents))
    var sum = [Float](repeating: 0, count: columns)
    let blocks = [UInt32](repeating: 0, count: latents)
    let isZero = [UInt8](repeating: 0, count: latents)
    entries.withUnsafeBufferPointer { entries in
      offsets.withUnsafeBufferPointer { offsets in
        blocks.withUnsafeBufferPointer { blocks in
          isZero.withUnsafeBufferPointer { isZero in
            encoder.withUnsafeMutableBufferPointer { encoder in
              decoder.withUnsafeMutableBufferPointer { decoder in
                squares.withUnsafeMutableBufferPointer { squares in
                  var problem = gk_gradients()
                  (problem.latents, problem.d_model) = (latents, size)
                  (problem.inputs, problem.returned) = (.init(inputs), .init(returned))
                  problem.slab_stride = count * tokens * columns
                  problem.entries.0 = gk_entries(
                    entries: entries.baseAddress, offsets: offsets.baseAddress)
                  (problem.blocks, problem.is_zero) = (blocks.baseAddress, isZero.baseAddress)
                  problem.encoder = encoder.baseAddress
                  problem.decoder = decoder.baseAddress
                  problem.squared_norms = squares.baseAddress
                  for strip in 0..<count { kernels.strip_gradients(&problem, strip, 0, latents) }
                }
              }
            }
          }
        }
      }
    }
    kernels.strip_sum(inputs, tokens, &sum)
    return bits(encoder, decoder, squares, sum)
  }

  private static let statistics: Run = { kernels, size, random in
    var (sums, squares) = ([Double](repeating: 1, count: size), [Double](repeating: 2, count: size))
    kernels.column_moments(random.normals(7 * size), 7, size, random.normals(size), &sums, &squares)
    return (sums + squares).map(\.bitPattern)
  }

  private static let adam: Run = { kernels, size, random in
    var step = gk_adam_step(
      learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, bias_correction1: 0.19,
      bias_correction2: 0.002, weight_decay: 0.01, gradient_scale: 0.5)
    var row = random.normals(size)
    kernels.normalize(&row, size)
    var (first, second) = (random.normals(size), random.normals(size).map { $0 * $0 })
    let gradients = random.normals(size)
    var results: [[Float]] = []
    for gradients in [gradients, nil] {
      kernels.adam(&row, &first, &second, gradients, size, &step)
      kernels.adam_unit_row(&row, &first, &second, gradients, 0.3, size, &step)
      results += [row, first, second]
    }
    return results.flatMap { bits($0) }
  }

  private static let softmax: Run = { kernels, size, random in
    var values = random.normals(size, scale: 10)
    let sum = kernels.exponentials(&values, size, 12, 0.25)
    var gradients = random.normals(size)
    kernels.softmax_gradient(values, &gradients, size, 0.5)
    kernels.scale(&gradients, size, 1.5)
    return bits(values, gradients) + [sum.bitPattern]
  }

  private static let swiglu: Run = { kernels, size, random in
    var (gate, up) = (random.normals(size, scale: 4), random.normals(size))
    var output = [Float](repeating: 0, count: size)
    kernels.swiglu(gate, up, &output, size)
    kernels.swiglu_gradient(&gate, &up, random.normals(size), size)
    return bits(output, gate, up)
  }

  private static let norms: Run = { kernels, size, random in
    let (input, weight) = (random.normals(size), random.normals(size))
    var (output, gradient) = (random.normals(size), random.normals(size))
    kernels.rms_norm(input, weight, 1e-5, size, &output)
    kernels.rms_norm_gradient(input, weight, 1e-5, size, random.normals(size), &gradient)
    var heads = random.normals(2 * size)
    kernels.rotate_pairs(&heads, 2, size / 2 * 2, random.normals(size), random.normals(size), -1)
    return bits(output, gradient, heads)
  }
}

private func bits(_ values: [Float]...) -> [UInt64] {
  values.joined().map { UInt64($0.bitPattern) }
}
