internal import CGranuleKernels
internal import Glibc
internal import GranuleDictionary
internal import GranuleTensors
internal import GranuleThreads

/// An encoder in 8 bits with bounds of its error: the screen that decides which latents may be active
/// (docs/encoder.md).
///
/// Any invertible map may be applied to both sides of w · x. Activations are centred, each dimension
/// divided by what balances the cost of quantising weights and activations, and both sides are
/// rotated, so that no dimension stands out. Without statistics of the activations these come from the
/// decoder; the answer is the same, the screen less sharp.
///
/// Its memory changes when an owner packs it again: `SparseEncoder` never does, `LiveEncoder` does
/// between calls that encode.
final class QuantizedEncoder: @unchecked Sendable {
  // Unchecked: nobody packs while anybody encodes, as stated above.

  let cpu: EncoderCPU
  let dModel: Int
  let latents: Int
  /// d_model, rounded up to whole vectors that the rotation can take.
  let paddedDModel: Int
  /// Subtracted from the encoder's input: [padded d_model]
  let center: FloatStorage
  /// Factors of the centred input, the reciprocals of `weightScales`: [padded d_model]
  let inputScales: FloatStorage
  /// The largest ‖W_enc[j]‖ / norms[j]: it relates raw norms to those after the transform.
  private var rawNormRatio = 0.0
  /// Bound of the transform's rounding, relative to a norm.
  private let rounding: Double
  /// Factor that makes computed norms upper bounds.
  private let grow: Float

  /// [panels, padded d_model / 4, 64, 4]
  private let weights: FloatStorage
  private let scales: FloatStorage
  /// Upper bounds of b_enc[j] + W_enc[j] · centre: [64 · panels]
  private let biases: FloatStorage
  /// The same less max(θ_j, 0); nil unless the rule is `threshold`.
  private let biasesAboveThresholds: FloatStorage?
  private let residualNorms: FloatStorage
  private let norms: FloatStorage
  /// ‖W_enc[j]‖, slightly more: [64 · panels]
  let rawNorms: FloatStorage
  /// Factors of the weights: [padded d_model]
  private let weightScales: FloatStorage
  /// Bound of the rounding of weights · centre, relative to the weights' norm.
  private let centerRounding: Float
  private let rotation: Rotation
  private let levels: Int32

  static let panelLatents = Int(gk_panel_latents)
  /// The largest d_model: beyond, sums of products would overflow 32 bits.
  static let dModelMax = 1 << 16

  /// Quantises an encoder; nil if d_model is too large.
  ///
  /// - Parameters:
  ///   - thresholds: max(θ, 0), [latents], if the rule is `threshold`.
  ///   - threads: number of threads that share the work.
  init?(
    _ weights: EncodingWeights, _ input: InputTransform, thresholds: UnsafePointer<Float>?,
    cpu: EncoderCPU, threads: Int
  ) {
    guard weights.dModel <= Self.dModelMax else { return nil }
    self.cpu = cpu
    dModel = weights.dModel
    latents = weights.latents
    let rotation = Rotation(dModel: dModel)
    self.rotation = rotation
    let (vectors, odd) = (rotation.vectors, rotation.odd)
    paddedDModel = 16 * vectors
    // AVX2 adds two products in 16 bits: with 7 bits on one side they fit.
    levels = cpu == .avx2 ? 63 : 127
    let (center, weightScales) = Self.balance(weights, input, count: paddedDModel)
    self.center = center
    self.weightScales = weightScales
    inputScales = FloatStorage(weightScales.values.map { $0 == 0 ? 0 : 1 / $0 })
    // Four partial sums, as the kernel has them (Higham, as below), and the sum of those.
    let centerNorm = center.values.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
    centerRounding = Float(1.1 * Double(4 * vectors + 4) * 0x1p-24 * centerNorm)

    // Every step of the transform rounds once, relative to the norm; each of Hartley's sums of `odd`
    // terms odd / 2 + 3 times, coefficients included, relative to at most √2 times the norm.
    let steps =
      3 + 4 + log2(Double(vectors / odd)) + Double(odd / 2 + 3) * Double(2 * odd).squareRoot()
    rounding = 1.1 * steps * 0x1p-24
    grow = Float(1 + Double(vectors + 32) * 0x1p-22 + 2 * rounding)

    let panels = (latents + Self.panelLatents - 1) / Self.panelLatents
    self.weights = FloatStorage(
      uninitializedCount: panels * Self.panelLatents * paddedDModel / MemoryLayout<Float>.size)
    let padded = panels * Self.panelLatents
    scales = FloatStorage(count: padded)
    biases = FloatStorage(count: padded)
    residualNorms = FloatStorage(count: padded)
    norms = FloatStorage(count: padded)

    rawNorms = FloatStorage(count: padded)
    biasesAboveThresholds = thresholds == nil ? nil : FloatStorage(count: padded)
    let parallel = Parallel(threads: threads)
    parallel.forBlocks(panels, size: max(1, min(16, panels / parallel.threads))) { _, range in
      pack(panels: range, weights: weights)
    }
    finishPacking(thresholds: thresholds)
  }

  /// Quantises some panels. Several threads may quantise different panels; `finishPacking` follows.
  func pack(panels range: Range<Int>, weights source: EncodingWeights) {
    let scratch = FloatStorage(uninitializedCount: 16 * paddedDModel)
    let panelBytes = Self.panelLatents * paddedDModel
    rotation.withParameters { parameters in
      var packing = gk_packing(
        scales: weightScales.pointer, center: center.pointer, d_model: dModel,
        rotation: parameters, levels: levels,
        rotation_square: Float(16 * rotation.vectors / rotation.odd), rounding: Float(rounding),
        grow: grow, center_rounding: centerRounding)
      for panel in range {
        let first = panel * Self.panelLatents
        var bounds = gk_panel_bounds(
          scales: scales.pointer + first, biases: biases.pointer + first,
          residual_norms: residualNorms.pointer + first, norms: norms.pointer + first,
          raw_norms: rawNorms.pointer + first)
        gk_pack_panel(
          cpu.kernels, &packing, source.encoder + first * dModel, source.encoderBias + first,
          min(Self.panelLatents, latents - first),
          scratch.pointer, Self.bytes(weights) + panel * panelBytes, &bounds)
      }
    }
  }

  /// Takes note of the norms that packing found.
  ///
  /// - Parameter thresholds: max(θ, 0), [latents], if the rule is `threshold`.
  func finishPacking(thresholds: UnsafePointer<Float>?) {
    rawNormRatio = 0
    for latent in 0..<latents {
      if norms.pointer[latent] > 0 {
        rawNormRatio = max(
          rawNormRatio, Double(rawNorms.pointer[latent]) / Double(norms.pointer[latent]))
      } else if biases.pointer[latent].isFinite, rawNorms.pointer[latent] > 1.1e-15 {
        // Its weights vanished in the transform: nothing is known.
        biases.pointer[latent] = .infinity
      }
    }
    guard let thresholds, let above = biasesAboveThresholds else { return }
    above.pointer.update(from: biases.pointer, count: biases.count)
    for latent in 0..<latents {
      let difference = biases.pointer[latent] - thresholds[latent]
      above.pointer[latent] = difference + 1e-6 * abs(difference) + 1e-30
    }
  }

  private static func bytes(_ weights: FloatStorage) -> UnsafeMutablePointer<UInt8> {
    UnsafeMutableRawPointer(weights.pointer).assumingMemoryBound(to: UInt8.self)
  }

  /// About the bytes of memory that the encoder of a dictionary of this size takes.
  static func byteCount(latents: Int, dModel: Int) -> Int {
    let panels = (latents + panelLatents - 1) / panelLatents
    return panels * panelLatents * (16 * Rotation(dModel: dModel).vectors + 24)
  }

  /// Bytes of memory that it takes.
  var residentBytes: Int {
    let floats =
      weights.count + scales.count * 5 + (biasesAboveThresholds?.count ?? 0) + 3 * paddedDModel
    return floats * MemoryLayout<Float>.size
  }

  /// The screen of the selection rule: a latent may be active only if its bound reaches 0.
  var screen: gk_screen {
    gk_screen(
      weights: Self.bytes(weights), scales: scales.pointer,
      biases: (biasesAboveThresholds ?? biases).pointer, residual_norms: residualNorms.pointer,
      norms: norms.pointer, d_padded: paddedDModel, offset: levels + 1)
  }

  /// Quantises one token's encoder input.
  ///
  /// - Parameters:
  ///   - input: [d_model], as the encoder sees it.
  ///   - squaredNorm: of the input.
  ///   - scratch: [padded d_model]
  ///   - quantized: [padded d_model], receives the token in 8 bits.
  /// - Returns: false if the bounds would not hold, so that the token cannot be screened.
  func quantize(
    _ input: UnsafePointer<Float>, squaredNorm: Float, scratch: UnsafeMutablePointer<Float>,
    quantized: UnsafeMutablePointer<Int8>, token: inout gk_screened_token
  ) -> Bool {
    var row = gk_quantized_row()
    rotation.withParameters {
      gk_quantize(
        cpu.kernels, input, center.pointer, inputScales.pointer, dModel, $0, 127, scratch,
        quantized, &row)
    }
    token.scale = row.scale
    token.sum = row.sum
    token.norm = row.norm * grow
    // The token's own error; that of the transform and of the bound's evaluation; and that of the
    // pre-activation's own summation (Higham, Accuracy and Stability of Numerical Algorithms, §3.1:
    // |fl(w·x) − w·x| ≤ n u / (1 − n u) · ‖w‖‖x‖ for n roundings on the longest path).
    let summation = 1.1 * (Double(dModel / 16) + 10) * 0x1p-24
    let inputNorm = 1.01 * (Double(squaredNorm) + 1e-30).squareRoot()
    token.residual_norm =
      row.residual_norm * grow
      + Float(
        1.01 * ((rounding + 0x1p-20) * Double(row.norm) + summation * rawNormRatio * inputNorm))
    return row.usable != 0 && token.residual_norm < 1e30
  }

  /// The centre of the encoder's inputs, and the factors of the weights.
  ///
  /// Quantising costs ‖D⁻¹x‖ on one side and ‖Dw‖ on the other; their product is least if D⁴ is
  /// the ratio of the mean squares of each dimension.
  ///
  /// - Parameter count: of the values returned, 0 beyond d_model.
  private static func balance(
    _ dictionary: EncodingWeights, _ input: InputTransform, count: Int
  ) -> (center: FloatStorage, weightScales: FloatStorage) {
    let dModel = dictionary.dModel
    let center = FloatStorage(count: count)
    if input.normalization == .none {
      let bias = dictionary.decoderBias
      for i in 0..<dModel {
        let mean = input.mean?[i] ?? bias[i]
        let value = input.subtractsDecoderBias ? mean - bias[i] : mean
        center.pointer[i] = value.isFinite ? value : 0
      }
    }
    func meanSquares(_ rows: UnsafePointer<Float>) -> [Double] {
      // A sample of rows is enough for a scale.
      var sums = [Double](repeating: 0, count: dModel)
      let count = min(dictionary.latents, 1024)
      for sample in 0..<count {
        let row = rows + dictionary.latents * sample / count * dModel
        for i in 0..<dModel { sums[i] += Double(row[i]) * Double(row[i]) }
      }
      return sums.map { $0 / Double(count) }
    }
    var activations: [Double]
    if let deviation = input.deviation, input.normalization == .none {
      activations = deviation.map { Double($0) * Double($0) }
    } else {
      activations = meanSquares(dictionary.decoder)
    }
    var weights = meanSquares(dictionary.encoder)
    // Dimensions that hardly vary are not scaled without bound.
    func floored(_ squares: [Double]) -> [Double] {
      let mean = squares.reduce(0, +) / Double(dModel)
      return squares.map { $0.isFinite && mean.isFinite && mean > 0 ? max($0, 1e-6 * mean) : 1 }
    }
    (activations, weights) = (floored(activations), floored(weights))
    let ratios = zip(activations, weights).map { ($0 / $1).squareRoot().squareRoot() }
    let logarithms = ratios.reduce(0) { $0 + log($1) } / Double(dModel)
    let middle = exp(logarithms)
    let weightScales = FloatStorage(count: count)
    for i in 0..<dModel { weightScales.pointer[i] = Float(min(max(ratios[i] / middle, 1e-3), 1e3)) }
    return (center, weightScales)
  }
}

/// A rotation that spreads the content of few dimensions over all (docs/encoder.md): Hadamard ⊗
/// Hartley, for any d_model.
struct Rotation {
  /// Number of vectors of 16 dimensions, and its odd part: padded so that the dense part of the
  /// rotation, of odd order, stays small.
  let vectors: Int
  let odd: Int
  /// See `gk_rotation`: [odd / 2, odd / 2]
  private let cosines: [Float]
  private let sines: [Float]

  init(dModel: Int) {
    let least = (dModel + 15) / 16
    func oddPart(_ vectors: Int) -> Int { vectors >> vectors.trailingZeroBitCount }
    vectors =
      oddPart(least) <= 15
      ? least
      : (least...least + least / 16).min { (oddPart($0), $0) < (oddPart($1), $1) }!
    odd = oddPart(vectors)
    let (odd, half) = (odd, odd / 2)
    func table(_ function: (Double) -> Double) -> [Float] {
      (0..<half * half).map { place in
        let step = (place / half + 1) * (place % half + 1) % odd
        return Float(function(2 * .pi * Double(step) / Double(odd)) / Double(odd).squareRoot())
      }
    }
    cosines = table(cos)
    sines = table(sin)
  }

  func withParameters(_ body: (UnsafePointer<gk_rotation>) -> Void) {
    cosines.withUnsafeBufferPointer { cosines in
      sines.withUnsafeBufferPointer { sines in
        var parameters = gk_rotation(
          vectors: vectors, odd: odd, cosines: cosines.baseAddress, sines: sines.baseAddress,
          factor: Float(1 / Double(odd).squareRoot()))
        body(&parameters)
      }
    }
  }
}
