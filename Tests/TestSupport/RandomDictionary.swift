internal import Glibc
public import GranuleDictionary
public import GranuleEncoder
public import GranuleTensors

/// A small fast generator (SplitMix64) whose seed tests print and replay.
public struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  /// The same seed gives the same numbers.
  public init(seed: UInt64) { state = seed }

  /// The next 64 bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  /// ±10^e, e uniform in a range.
  public mutating func magnitude(_ exponents: ClosedRange<Float>) -> Float {
    let exponent = Float.random(in: exponents, using: &self)
    return (Bool.random(using: &self) ? 1 : -1) * powf(10, exponent)
  }

  /// Roughly normal: the sum of twelve uniform numbers, less six.
  public mutating func normal() -> Float {
    (0..<12).reduce(Float(-6)) { sum, _ in sum + Float.random(in: 0..<1, using: &self) }
  }

  /// `count` normal numbers times `scale`.
  public mutating func normals(_ count: Int, scale: Float = 1) -> [Float] {
    (0..<count).map { _ in normal() * scale }
  }
}

extension SparseAutoencoder {
  /// A dictionary of random weights with unit decoder rows and small biases.
  public static func random(
    dModel: Int, latents: Int, rule: SelectionRule, seed: UInt64,
    adjust: (inout Parts) -> Void = { _ in }
  ) -> SparseAutoencoder {
    var generator = SeededGenerator(seed: seed)
    let scale = 1 / Float(dModel).squareRoot()
    var parts = Parts(
      encoderWeights: FloatStorage(generator.normals(latents * dModel, scale: scale)),
      encoderBias: FloatStorage(generator.normals(latents, scale: 0.1)),
      decoderWeights: FloatStorage(generator.normals(latents * dModel, scale: scale)),
      decoderBias: FloatStorage(generator.normals(dModel, scale: 0.3)),
      selectionRule: rule)
    parts.activationMean = generator.normals(dModel, scale: 0.2)
    adjust(&parts)
    return SparseAutoencoder(parts)
  }

  /// The codes of an encoder that is made for one call, on one thread.
  public func encoded(
    _ activations: [Float], granularity: Int? = nil, k: Int? = nil
  ) throws(EncodingError) -> SparseCodes {
    try SparseEncoder(self).encode(
      activations, granularity: granularity, k: k, in: EncodeWorkspace())
  }
}
