internal import CKernels
internal import Glibc
internal import Tensors

/// An encoder in 8 bits, and what bounds its error: the screen that decides which latents may be
/// active (docs/encoder.md).
///
/// Any invertible map may be applied to both sides of w · x. Activations are centred, each dimension
/// divided by what balances the cost of quantising weights and activations, and both sides are
/// rotated, so that no dimension stands out. Without statistics of the activations these come from the
/// decoder; the answer is the same, the screen less sharp.
final class QuantizedEncoder: @unchecked Sendable {
  // Unchecked: written only while it is made, before it is shared; a trainer, which packs it again,
  // does so between calls of `encode`.

  let cpu: EncoderCPU
  let dModel: Int
  let latents: Int
  /// d_model, rounded up to whole vectors that the rotation can take.
  let paddedDModel: Int
  /// Subtracted from the encoder's input: [d_model]
  let center: FloatStorage
  /// What the centred input is multiplied by, one over what weights are: [d_model]
  let inputScales: FloatStorage
  /// ‖W_enc[j]‖ / norms[j], at most: what relates raw norms to those after the transform.
  private var rawNormRatio = 0.0
  /// The same of each latent: [64 · panels]
  private let ratios: FloatStorage
  /// ‖W_enc[j]‖, rounded up: [64 · panels]
  let rawNorms: FloatStorage
  /// What weights are multiplied by: [d_model]
  private let weightScales: FloatStorage
  /// Of the transform, relative to a norm.
  private let rounding: Double
  /// What computed norms are multiplied by to be sure.
  private let grow: Float

  /// [panels, padded d_model / 4, 64, 4]
  private let weights: UnsafeMutableRawPointer
  private let weightBytes: Int
  private let scales: FloatStorage
  /// Upper bounds of b_enc[j] + W_enc[j] · centre: [64 · panels]
  private let biases: FloatStorage
  /// The same less max(θ_j, 0), where the rule is `threshold`.
  private var biasesAboveThresholds: FloatStorage?
  private let residualNorms: FloatStorage
  private let norms: FloatStorage
  private let hartley: FloatStorage
  private let vectors: Int
  private let odd: Int
  private let levels: Int32

  static let panelLatents = Int(granule_panel_latents)
  /// Beyond, sums of products would overflow 32 bits.
  static let dModelMax = 1 << 16

  /// Quantises on all cores.
  init(_ dictionary: SparseAutoencoder, cpu: EncoderCPU) {
    self.cpu = cpu
    dModel = dictionary.dModel
    latents = dictionary.latents
    (vectors, odd) = Self.rotation(dModel: dModel)
    paddedDModel = 16 * vectors
    // AVX2 adds two products in 16 bits: with 7 bits on one side they fit.
    levels = cpu == .avx2 ? 63 : 127
    hartley = Self.hartley(order: odd)
    let (center, weightScales) = Self.balance(dictionary)
    self.center = center
    self.weightScales = weightScales
    inputScales = FloatStorage(weightScales.values.map { 1 / $0 })

    // Every step of the transform rounds once, relative to the norm; Hartley's sums of `odd` terms,
    // whose coefficients are rounded too, in the worst case by this much more.
    let steps = 3 + 4 + log2(Double(vectors / odd)) + Double(odd + 2) * Double(2 * odd).squareRoot()
    rounding = 1.1 * steps * 0x1p-24
    grow = Float(1 + Double(vectors + 32) * 0x1p-22 + 2 * rounding)

    let panels = (latents + Self.panelLatents - 1) / Self.panelLatents
    let panelBytes = Self.panelLatents * paddedDModel
    weightBytes = panels * panelBytes
    let hugePage = 2 << 20
    var raw: UnsafeMutableRawPointer?
    guard
      posix_memalign(&raw, weightBytes >= hugePage ? hugePage : 64, weightBytes) == 0, let raw
    else { fatalError("out of memory: \(weightBytes) bytes asked for") }
    if weightBytes >= hugePage { madvise(raw, weightBytes, MADV_HUGEPAGE) }
    weights = raw
    let padded = panels * Self.panelLatents
    scales = FloatStorage(count: padded)
    biases = FloatStorage(count: padded)
    residualNorms = FloatStorage(count: padded)
    norms = FloatStorage(count: padded)

    ratios = FloatStorage(count: padded)
    rawNorms = FloatStorage(count: padded)
    if dictionary.effectiveThresholds != nil { biasesAboveThresholds = FloatStorage(count: padded) }
    Parallel.forBlocks(panels, size: max(1, min(16, panels / Parallel.threads))) { _, range in
      pack(
        panels: range, weights: dictionary.encoderWeights, biases: dictionary.encoderBias,
        thresholds: dictionary.effectiveThresholds)
    }
    finishPacking()
  }

  /// Quantises some panels. Several threads may, each other panels; `finishPacking` follows.
  ///
  /// - Parameters:
  ///   - weights: W_enc, [latents, d_model]
  ///   - encoderBiases: b_enc, [latents]
  ///   - thresholds: max(θ, 0), [latents], where the rule is `threshold`.
  func pack(
    panels range: Range<Int>, weights encoderWeights: FloatStorage,
    biases encoderBiases: FloatStorage, thresholds: FloatStorage?
  ) {
    let scratch = FloatStorage(count: 48 * vectors)
    var rotation = granule_rotation(vectors: vectors, odd: odd, hartley: hartley.pointer)
    withUnsafePointer(to: &rotation) { rotation in
      var packing = granule_packing(
        scales: weightScales.pointer, center: center.pointer, d_model: dModel, rotation: rotation,
        levels: levels, rotation_square: Float(16 * vectors / odd), rounding: Float(rounding),
        grow: grow)
      for panel in range {
        let first = panel * Self.panelLatents
        let count = min(Self.panelLatents, latents - first)
        var bounds = granule_panel_bounds(
          scales: scales.pointer + first, biases: biases.pointer + first,
          residual_norms: residualNorms.pointer + first, norms: norms.pointer + first)
        granule_pack_panel(
          cpu.kernels, &packing, encoderWeights.pointer + first * dModel,
          encoderBiases.pointer + first, count, scratch.pointer,
          (weights + panel * Self.panelLatents * paddedDModel).assumingMemoryBound(to: UInt8.self),
          &bounds)
        for latent in first..<first + count {
          let row = encoderWeights.pointer + latent * dModel
          // 1.01 covers the rounding of the sum, the floor what underflows in it.
          let norm = 1.01 * (granule_dot(row, row, dModel) + 1e-30).squareRoot()
          rawNorms.pointer[latent] = norm
          ratios.pointer[latent] = 0
          if norms.pointer[latent] > 0 {
            ratios.pointer[latent] = norm / norms.pointer[latent]
          } else if biases.pointer[latent].isFinite, norm > 1e-14 {
            // Its weights vanished in the transform: nothing is known.
            biases.pointer[latent] = .infinity
          }
        }
        guard let thresholds, let biasesAboveThresholds else { continue }
        for latent in first..<first + Self.panelLatents {
          guard latent < latents else {
            biasesAboveThresholds.pointer[latent] = biases.pointer[latent]
            continue
          }
          let difference = biases.pointer[latent] - thresholds.pointer[latent]
          biasesAboveThresholds.pointer[latent] = difference + 1e-6 * abs(difference) + 1e-30
        }
      }
    }
  }

  /// Takes note of what packing found.
  func finishPacking() {
    var ratio: Float = 0
    for latent in 0..<latents { ratio = max(ratio, ratios.pointer[latent]) }
    rawNormRatio = Double(ratio)
  }

  deinit { free(weights) }

  /// Bytes of memory that it takes.
  var residentBytes: Int {
    let floats =
      scales.count * 6 + (biasesAboveThresholds?.count ?? 0) + hartley.count + 3 * dModel
    return weightBytes + floats * MemoryLayout<Float>.size
  }

  /// The screen of a selection rule: a latent may be active only where its bound reaches 0.
  var screen: granule_screen {
    granule_screen(
      weights: weights.assumingMemoryBound(to: UInt8.self), scales: scales.pointer,
      biases: (biasesAboveThresholds ?? biases).pointer, residual_norms: residualNorms.pointer,
      norms: norms.pointer, d_padded: paddedDModel, offset: levels + 1)
  }

  /// Floats of scratch memory that `quantize` needs.
  var scratchCount: Int { 2 * paddedDModel }

  /// Quantises one token's encoder input.
  ///
  /// - Parameters:
  ///   - input: [d_model], as the encoder sees it.
  ///   - squaredNorm: of the input.
  ///   - quantized: [padded d_model], receives the token in 8 bits.
  /// - Returns: false where the bounds would not hold, so that the token cannot be screened.
  func quantize(
    _ input: UnsafePointer<Float>, squaredNorm: Float, scratch: UnsafeMutablePointer<Float>,
    quantized: UnsafeMutablePointer<Int8>, token: inout granule_screened_token
  ) -> Bool {
    var rotation = granule_rotation(vectors: vectors, odd: odd, hartley: hartley.pointer)
    var row = granule_quantized_row()
    granule_quantize(
      cpu.kernels, input, center.pointer, inputScales.pointer, dModel, &rotation, 127, scratch,
      quantized, &row)
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

  /// The number of vectors of 16 dimensions, and its odd part: padded so that the dense part of the
  /// rotation, of odd order, stays small.
  static func rotation(dModel: Int) -> (vectors: Int, odd: Int) {
    let least = (dModel + 15) / 16
    func odd(_ vectors: Int) -> Int { vectors >> vectors.trailingZeroBitCount }
    let vectors = (least...least + least / 16).min { (odd($0), $0) < (odd($1), $1) }!
    return odd(least) <= 15 ? (least, odd(least)) : (vectors, odd(vectors))
  }

  /// (cos + sin)(2π i j / n) / √n: orthogonal, symmetric, and flat.
  static func hartley(order: Int) -> FloatStorage {
    let matrix = FloatStorage(count: order * order)
    let factor = 1 / Double(order).squareRoot()
    for i in 0..<order {
      for j in 0..<order {
        let angle = 2 * Double.pi * Double(i * j % order) / Double(order)
        matrix.pointer[i * order + j] = Float(factor * (cos(angle) + sin(angle)))
      }
    }
    return matrix
  }

  /// The centre of the encoder's inputs, and what weights are multiplied by.
  ///
  /// Quantising costs ‖D⁻¹x‖ on one side and ‖Dw‖ on the other; their product is least where D⁴ is
  /// the ratio of the mean squares of each dimension.
  private static func balance(
    _ dictionary: SparseAutoencoder
  ) -> (center: FloatStorage, weightScales: FloatStorage) {
    let dModel = dictionary.dModel
    let center = FloatStorage(count: dModel)
    if dictionary.inputNormalization == .none {
      let bias = dictionary.decoderBias.pointer
      for i in 0..<dModel {
        let mean = dictionary.activationMean?[i] ?? bias[i]
        let value = dictionary.subtractsDecoderBias ? mean - bias[i] : mean
        center.pointer[i] = value.isFinite ? value : 0
      }
    }
    func meanSquares(_ rows: FloatStorage) -> [Double] {
      // A sample of rows is enough for a scale.
      var sums = [Double](repeating: 0, count: dModel)
      let count = min(dictionary.latents, 1024)
      for sample in 0..<count {
        let row = rows.pointer + dictionary.latents * sample / count * dModel
        for i in 0..<dModel { sums[i] += Double(row[i]) * Double(row[i]) }
      }
      return sums.map { $0 / Double(count) }
    }
    var activations: [Double]
    if let deviation = dictionary.activationDeviation,
      dictionary.inputNormalization == .none
    {
      activations = deviation.map { Double($0) * Double($0) }
    } else {
      activations = meanSquares(dictionary.decoderWeights)
    }
    var weights = meanSquares(dictionary.encoderWeights)
    // Dimensions that hardly vary are not scaled without bound.
    func floored(_ squares: [Double]) -> [Double] {
      let mean = squares.reduce(0, +) / Double(dModel)
      return squares.map { $0.isFinite && mean.isFinite && mean > 0 ? max($0, 1e-6 * mean) : 1 }
    }
    (activations, weights) = (floored(activations), floored(weights))
    let ratios = zip(activations, weights).map { ($0 / $1).squareRoot().squareRoot() }
    let logarithms = ratios.reduce(0) { $0 + log($1) } / Double(dModel)
    let middle = exp(logarithms)
    return (
      center, FloatStorage(ratios.map { Float(min(max($0 / middle, 1e-3), 1e3)) })
    )
  }
}
