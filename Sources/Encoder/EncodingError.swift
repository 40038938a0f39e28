public import GranuleDictionary

/// Why activations cannot be encoded.
public enum EncodingError: Error, CustomStringConvertible, Sendable, Equatable {
  /// An element of the activations is NaN or infinite.
  case notFinite(token: Int, dimension: Int)
  /// A token is so large that a pre-activation or its squared error overflows float32.
  case overflow(token: Int)
  /// The granularity is not in 1 … latents.
  case granularity(Int, latents: Int)
  /// k is not in 1 … granularity.
  case k(Int, granularity: Int)
  /// A k was given to a dictionary whose selection rule has none.
  case unexpectedK(rule: String)
  /// The number of values is not a multiple of d_model.
  case shape(values: Int, dModel: Int)
  /// The encoder in 8 bits does not fit into memory.
  case memory(byteCount: Int)

  /// What was wrong, and the limit.
  public var description: String {
    switch self {
    case .notFinite(let token, let dimension):
      "activations: token \(token), dimension \(dimension) is not finite"
    case .overflow(let token):
      "activations: token \(token) is so large that a pre-activation or squared error overflows float32"
    case .granularity(let granularity, let latents):
      "granularity is \(granularity), it must be in 1 … \(latents), the resident latents"
    case .k(let k, let granularity):
      "k is \(k), it must be in 1 … \(granularity), the granularity"
    case .unexpectedK(let rule):
      "k was given, but the dictionary's selection rule \(rule) has none"
    case .shape(let values, let dModel):
      "activations: has \(values) values, it must have a multiple of \(dModel), d_model"
    case .memory(let byteCount):
      "preparing the encoder needs \(byteCount) bytes of memory, more than can be had"
    }
  }

  /// The same error for the same token counted from `start` tokens earlier.
  public func shifted(by start: Int) -> EncodingError {
    switch self {
    case .notFinite(let token, let dimension):
      .notFinite(token: token + start, dimension: dimension)
    case .overflow(let token): .overflow(token: token + start)
    default: self
    }
  }
}

/// Why codes cannot be decoded.
public enum DecodingError: Error, CustomStringConvertible, Sendable, Equatable {
  /// A code names a latent that is not in memory.
  case latent(UInt32, token: Int, latents: Int)
  /// The dictionary normalises each activation, and codes alone do not say by how much.
  case needsActivations(InputNormalization)

  /// What was wrong, and the limit.
  public var description: String {
    switch self {
    case .latent(let latent, let token, let latents):
      "codes: token \(token) has latent \(latent), the resident latents are 0 … \(latents - 1)"
    case .needsActivations(let normalization):
      "this dictionary normalises each activation (\(normalization.rawValue)), which codes alone "
        + "cannot undo: ask for the reconstruction when encoding"
    }
  }
}
