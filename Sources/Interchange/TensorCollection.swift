internal import GranuleFiles
internal import GranuleTensors

/// The tensors of one file, whatever its container.
struct TensorCollection {
  /// The file's path.
  let file: String
  /// Its tensors, in the order of the file.
  let tensors: [StoredTensor]

  /// The tensor called `name`, or nil.
  subscript(name: String) -> StoredTensor? { tensors.first { $0.name == name } }

  /// The tensor called `name`.
  ///
  /// - Throws: `FileError` if there is none, naming those there are.
  func tensor(_ name: String) throws(FileError) -> StoredTensor {
    if let tensor = self[name] { return tensor }
    let names = tensors.prefix(20).map(\.name).joined(separator: ", ")
    throw FileError(file: file, tensor: name, fault: "is missing; the file has \(names)")
  }

  /// - Throws: `FileError` that names a tensor which is none of `names`.
  func requireOnly(_ names: [String]) throws(FileError) {
    for tensor in tensors where !names.contains(tensor.name) {
      throw tensor.fault("is unexpected; known are \(names.sorted().joined(separator: ", "))")
    }
  }

  /// The length of a vector.
  ///
  /// - Throws: `FileError` if it is not a vector, or is empty.
  func length(of name: String) throws(FileError) -> Int {
    let tensor = try tensor(name)
    guard tensor.shape.count == 1, (1...JSONReader.sizeMax).contains(tensor.shape[0]) else {
      throw tensor.fault(
        "has shape \(tensor.shape), one dimension of 1 … \(JSONReader.sizeMax) is needed")
    }
    return tensor.shape[0]
  }

  /// The value of a tensor of one integer.
  ///
  /// - Throws: `FileError` if it is none, or outside `range`.
  func integer(_ name: String, in range: ClosedRange<Int>) throws(FileError) -> Int {
    let tensor = try tensor(name)
    guard tensor.count == 1 else { throw tensor.fault("has shape \(tensor.shape), [] is needed") }
    let value = try tensor.loaded().integers()[0]
    guard range.contains(value) else {
      throw tensor.fault("is \(value), it must be in \(range.lowerBound) … \(range.upperBound)")
    }
    return value
  }

  /// The one threshold of a BatchTopK dictionary, which training calibrates; its libraries begin
  /// with −1 or 0.
  ///
  /// - Throws: `FileError` if it is not a scalar, or is not positive and finite.
  func calibratedThreshold(_ name: String) throws(FileError) -> Float {
    let tensor = try tensor(name)
    guard tensor.count == 1 else { throw tensor.fault("has shape \(tensor.shape), [] is needed") }
    let threshold = try tensor.loaded().float32().array[0]
    guard threshold.isFinite, threshold > 0 else {
      throw tensor.fault(
        "is \(threshold): it was never calibrated; train on, so that it becomes positive")
    }
    return threshold
  }
}

/// Where the four weights of a dictionary are in a file.
struct WeightNames {
  var encoder = "W_enc"
  /// Whether the encoder is stored [d_model, latents], else [latents, d_model].
  var encoderIsTransposed = true
  var decoder = "W_dec"
  /// Whether the decoder is stored [d_model, latents], else [latents, d_model].
  var decoderIsTransposed = false
  var encoderBias = "b_enc"
  var decoderBias = "b_dec"

  /// As torch's nn.Linear stores them: [outputs, inputs].
  static let linear = WeightNames(
    encoder: "encoder.weight", encoderIsTransposed: false, decoder: "decoder.weight",
    decoderIsTransposed: true, encoderBias: "encoder.bias")

  var all: [String] { [encoder, decoder, encoderBias, decoderBias] }
}
