import CGranuleKernels
import Glibc
import TestSupport
import Testing
@testable import GranuleEncoder

@Suite("Rows in 8 bits")
struct QuantizeTests {
  /// The rotation of 16 · vectors dimensions, plainly, in float64.
  struct PlainRotation {
    var vectors: Int
    var odd: Int
    var cosines: [Float] = []
    var sines: [Float] = []

    init(vectors: Int, odd: Int) {
      self.vectors = vectors
      self.odd = odd
      let half = odd / 2
      for place in 0..<half * half {
        let angle = 2 * Double.pi * Double((place / half + 1) * (place % half + 1)) / Double(odd)
        cosines.append(Float(cos(angle) / Double(odd).squareRoot()))
        sines.append(Float(sin(angle) / Double(odd).squareRoot()))
      }
    }

    private func sign(_ i: Int, _ j: Int) -> Double { (i & j).nonzeroBitCount % 2 == 0 ? 1 : -1 }

    func callAsFunction(_ values: [Double]) -> [Double] {
      let blocks = vectors / odd
      return (0..<16 * vectors).map { to in
        let (toBlock, toOdd, toLane) = (to / 16 / odd, to / 16 % odd, to % 16)
        var sum = 0.0
        for block in 0..<blocks {
          for column in 0..<odd {
            let angle = 2 * Double.pi * Double(toOdd * column % odd) / Double(odd)
            let factor =
              sign(toBlock, block) * (cos(angle) + sin(angle)) / Double(odd).squareRoot()
            for lane in 0..<16 {
              sum += factor * sign(toLane, lane) * values[16 * (block * odd + column) + lane]
            }
          }
        }
        return sum
      }
    }

    /// By how much it multiplies squared norms.
    var square: Double { Double(16 * vectors / odd) }
  }

  struct Quantized {
    var row = gk_quantized_row()
    var values: [Int8]
  }

  private func withParameters(
    _ rotation: PlainRotation, _ body: (UnsafePointer<gk_rotation>) -> Void
  ) {
    rotation.cosines.withUnsafeBufferPointer { cosines in
      rotation.sines.withUnsafeBufferPointer { sines in
        var parameters = gk_rotation(
          vectors: rotation.vectors, odd: rotation.odd, cosines: cosines.baseAddress,
          sines: sines.baseAddress, factor: Float(1 / Double(rotation.odd).squareRoot()))
        body(&parameters)
      }
    }
  }

  func quantize(
    _ cpu: gk_cpu, _ row: [Float], center: [Float]?, scales: [Float], levels: Int32,
    _ rotation: PlainRotation
  ) -> Quantized {
    var scratch = [Float](repeating: .nan, count: 16 * rotation.vectors)
    var result = Quantized(values: [Int8](repeating: 0, count: 16 * rotation.vectors))
    withParameters(rotation) {
      gk_quantize(
        cpu, row, center, scales, row.count, $0, levels, &scratch, &result.values, &result.row)
    }
    return result
  }

  @Test("the rotation of every size has an odd part that the kernels allow")
  func oddParts() {
    for dModel in stride(from: 1, through: QuantizedEncoder.dModelMax, by: 16) {
      let rotation = Rotation(dModel: dModel)
      #expect(rotation.odd <= gk_odd_max && 16 * rotation.vectors >= dModel)
    }
  }

  static let shapes: [(dModel: Int, vectors: Int, odd: Int)] = [
    (1, 1, 1), (16, 1, 1), (17, 2, 1), (40, 3, 3), (63, 4, 1), (80, 5, 5), (96, 6, 3), (577, 40, 5),
    (576, 36, 9), (592, 38, 19), (490, 31, 31), (112, 7, 7), (480, 30, 15),
  ]

  /// Rows of every kind, with their names.
  func rows(_ dModel: Int, _ generator: inout SeededGenerator) -> [(String, [Float])] {
    let normal = generator.normals(dModel)
    var outlier = normal
    outlier[dModel / 2] *= 1e4
    var one = [Float](repeating: 0, count: dModel)
    one[dModel / 3] = 1
    var rows = [
      ("normal", normal), ("outlier", outlier), ("one", one),
      ("constant", [Float](repeating: 0.7, count: dModel)),
      ("zero", [Float](repeating: 0, count: dModel)),
    ]
    for exponent in [-45, -38, -30, -26, -23, -22, -21, -20, -19, -18, -16, -12, 6, 12, 15, 18, 25]
    {
      rows.append(("1e\(exponent)", normal.map { $0 * powf(10, Float(exponent)) }))
    }
    return rows
  }

  @Test("are within what their norms say, in float64", arguments: shapes)
  func norms(dModel: Int, vectors: Int, odd: Int) {
    var generator = SeededGenerator(seed: UInt64(dModel))
    let rotation = PlainRotation(vectors: vectors, odd: odd)
    let scales = (0..<dModel).map { _ in abs(generator.magnitude(-2...2)) }
    let center = generator.normals(dModel)
    // As the encoder allows for rounding.
    let steps = 7 + log2(Double(vectors / odd)) + Double(odd / 2 + 3) * Double(2 * odd).squareRoot()
    let rounding = 1.1 * steps * 0x1p-24
    let grow = 1 + Double(vectors + 32) * 0x1p-22 + 2 * rounding
    for (name, row) in rows(dModel, &generator) {
      for usesCenter in [false, true] {
        var exact = [Double](repeating: 0, count: 16 * vectors)
        for i in 0..<dModel {
          exact[i] = (Double(row[i]) - (usesCenter ? Double(center[i]) : 0)) * Double(scales[i])
        }
        let rotated = rotation(exact)
        for levels in [Int32(63), 127] {
          for cpu in ScreenTests.cpus {
            let result = quantize(
              cpu, row, center: usesCenter ? center : nil, scales: scales, levels: levels, rotation)
            guard result.row.usable != 0 else {
              #expect(!["normal", "outlier", "one", "constant"].contains(name), "d \(dModel)")
              continue
            }
            let what = "\(cpu) d \(dModel) row \(name) center \(usesCenter) levels \(levels)"
            let norm = norm(rotated)
            let residuals = zip(rotated, result.values).map {
              $0 - Double(result.row.scale) * Double($1)
            }
            let allowed =
              grow * (Double(result.row.residual_norm) + rounding * Double(result.row.norm))
            #expect(norm <= grow * Double(result.row.norm), "\(what): norm")
            #expect(self.norm(residuals) <= allowed, "\(what): residual norm")
            #expect(result.row.sum == result.values.reduce(0) { $0 + Int32($1) }, "\(what): sum")
            #expect(result.values.allSatisfy { abs(Int32($0)) <= levels }, "\(what): levels")
          }
        }
      }
    }
  }

  private func norm(_ values: [Double]) -> Double {
    values.reduce(0) { $0 + $1 * $1 }.squareRoot()
  }

  @Test("are the same on every CPU", arguments: shapes)
  func cpus(dModel: Int, vectors: Int, odd: Int) {
    var generator = SeededGenerator(seed: UInt64(dModel) + 100)
    let rotation = PlainRotation(vectors: vectors, odd: odd)
    let scales = (0..<dModel).map { _ in abs(generator.magnitude(-2...2)) }
    for (name, row) in rows(dModel, &generator) {
      let plain = quantize(
        gk_cpu_portable, row, center: nil, scales: scales, levels: 127, rotation)
      for cpu in ScreenTests.cpus.dropFirst() {
        let other = quantize(cpu, row, center: nil, scales: scales, levels: 127, rotation)
        #expect(other.values == plain.values, "\(cpu) d \(dModel) row \(name): values")
        #expect(
          other.row.scale == plain.row.scale && other.row.usable == plain.row.usable,
          "\(cpu) d \(dModel) row \(name): scale")
      }
    }
  }

  @Test("panels of latents hold the same rows, with bounds that hold in float64", arguments: shapes)
  func panels(dModel: Int, vectors: Int, odd: Int) {
    var generator = SeededGenerator(seed: UInt64(dModel) + 300)
    let rotation = PlainRotation(vectors: vectors, odd: odd)
    let scales = (0..<dModel).map { _ in abs(generator.magnitude(-2...2)) }
    let center = generator.normals(dModel)
    let centerNorm = norm(center.map(Double.init))
    let padding = [Float](repeating: 0, count: 16 * vectors - dModel)
    let centerRounding = Double(4 * vectors + 4) * 0x1p-24 * centerNorm
    var rows = rows(dModel, &generator).map(\.1)
    rows.append([Float](repeating: .nan, count: dModel))
    rows += (rows.count..<64).map { _ in generator.normals(dModel) }
    let biases = generator.normals(64)
    let grow: Float = 1.001
    for cpu in ScreenTests.cpus {
      for latents in [1, 15, 16, 17, 64] {
        var panel = [UInt8](repeating: 77, count: 64 * 16 * vectors)
        var scratch = [Float](repeating: .nan, count: 256 * vectors)
        var bounds = [Float](repeating: .nan, count: 5 * 64)
        withParameters(rotation) { parameters in
          bounds.withUnsafeMutableBufferPointer { bounds in
            let first = bounds.baseAddress!
            var parts = gk_panel_bounds(
              scales: first, biases: first + 64, residual_norms: first + 128, norms: first + 192,
              raw_norms: first + 256)
            (scales + padding).withUnsafeBufferPointer { scales in
              (center + padding).withUnsafeBufferPointer { center in
                var packing = gk_packing(
                  scales: scales.baseAddress, center: center.baseAddress, d_model: dModel,
                  rotation: parameters, levels: 127, rotation_square: 1, rounding: 0, grow: grow,
                  center_rounding: Float(1.01 * centerRounding))
                gk_pack_panel(
                  cpu, &packing, Array(rows.prefix(latents).joined()), biases, latents, &scratch,
                  &panel, &parts)
              }
            }
          }
        }
        for latent in 0..<latents {
          let what = "\(cpu) d \(dModel) latent \(latent) of \(latents)"
          let row = rows[latent]
          let plain = quantize(
            cpu, row, center: nil, scales: scales, levels: 127, rotation)
          let isZero = row.allSatisfy { $0 == 0 }
          guard plain.row.usable != 0 || isZero else {
            #expect(bounds[64 + latent] == .infinity, "\(what)")
            continue
          }
          let packed = (0..<16 * vectors).map { panel[$0 / 4 * 256 + 4 * latent + $0 % 4] }
          let isEqual = packed == plain.values.map { UInt8(Int($0) + 128) }
          #expect(isEqual, "\(what): values")
          #expect(bounds[latent] == plain.row.scale, "\(what): scale")
          #expect(bounds[128 + latent] >= plain.row.residual_norm, "\(what): residual norm")
          #expect(bounds[192 + latent] >= plain.row.norm, "\(what): norm")
          #expect(Double(bounds[256 + latent]) >= norm(row.map(Double.init)), "\(what): raw norm")
          let bias = zip(row, center).reduce(Double(biases[latent])) {
            $0 + Double($1.0) * Double($1.1)
          }
          #expect(Double(bounds[64 + latent]) >= bias, "\(what): bias")
          let slack = 1e-5 * (abs(bias) + 10) + 3 * centerRounding * norm(row.map(Double.init))
          #expect(Double(bounds[64 + latent]) <= bias + slack, "\(what): bias is tight")
        }
        let absent = bounds[64 + latents..<128].allSatisfy { $0 == -.infinity }
        #expect(absent, "\(cpu) d \(dModel), \(latents) latents: those beyond")
      }
    }
  }

  @Test("the rotation is orthogonal, up to the factor that its shape states", arguments: shapes)
  func rotation(dModel: Int, vectors: Int, odd: Int) {
    var generator = SeededGenerator(seed: UInt64(dModel) + 200)
    let rotation = PlainRotation(vectors: vectors, odd: odd)
    let scales = [Float](repeating: 1, count: 16 * vectors)
    let (a, b) = (generator.normals(16 * vectors), generator.normals(16 * vectors))
    let (rotatedA, rotatedB) = (rotation(a.map(Double.init)), rotation(b.map(Double.init)))
    let product = zip(a, b).reduce(0) { $0 + Double($1.0) * Double($1.1) }
    let rotatedProduct = zip(rotatedA, rotatedB).reduce(0) { $0 + $1.0 * $1.1 }
    #expect(
      abs(rotatedProduct - rotation.square * product) < 1e-9 * rotation.square
        * norm(a.map(Double.init)) * norm(b.map(Double.init)))
    // What the kernel makes of the row is the plain rotation, as near as 8 bits can tell.
    for cpu in ScreenTests.cpus {
      let result = quantize(cpu, a, center: nil, scales: scales, levels: 127, rotation)
      for (exact, value) in zip(rotatedA, result.values) {
        #expect(
          abs(exact - Double(result.row.scale) * Double(value)) <= 0.51 * Double(result.row.scale))
      }
      #expect(abs(Double(result.row.norm) - norm(rotatedA)) < 1e-5 * norm(rotatedA))
    }
  }
}
