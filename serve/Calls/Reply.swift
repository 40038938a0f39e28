public import GranuleTensors

/// What answers a call.
public enum Reply: Sendable {
  /// One stage of an encode call.
  case encoded(EncodedStage)
  /// The answer to a decode call.
  case decoded(DecodeResponse)
  /// Every model, by name.
  case models([ModelStatus])
  /// The server's load and counts.
  case status(ServerStatus)
  /// The model after a change by administration has taken effect.
  case model(ModelStatus)
}

/// The codes of a call's tokens at one granularity.
public struct EncodedStage: Sendable {
  /// The model's name.
  public var model: String
  /// The version that answered.
  public var version: UInt64
  /// The granularity used.
  public var granularity: Int
  /// The k used; 0 if the selection rule has none.
  public var k: Int
  /// All active latents, in the pieces in which they were computed, in the order of the tokens; nil
  /// if the call left them out.
  public var pieces: [SparseCodes]?
  /// Float32 `[tokens, d_model]`, in raw scale; nil if it was not asked for.
  public var reconstruction: PackedTensor?
  /// Fraction of variance unexplained over the call's tokens; nil without a stored activation mean.
  public var fvu: Float?
  /// ‖x − x̂‖² of each token: `Float [tokens]`.
  public var squaredErrors: SharedBytes
  /// Why this is the last stage; nil on the others.
  public var stopReason: StopReason?
  /// From the call's arrival, or the previous stage, until a worker took it.
  public var queueNanoseconds: UInt64
  /// Wall-clock time from a worker's first touch to the last piece done.
  public var computeNanoseconds: UInt64

  /// A stage.
  public init(
    model: String, version: UInt64, granularity: Int, k: Int, pieces: [SparseCodes]?,
    reconstruction: PackedTensor?, fvu: Float?, squaredErrors: SharedBytes,
    stopReason: StopReason?, queueNanoseconds: UInt64, computeNanoseconds: UInt64
  ) {
    self.model = model
    self.version = version
    self.granularity = granularity
    self.k = k
    self.pieces = pieces
    self.reconstruction = reconstruction
    self.fvu = fvu
    self.squaredErrors = squaredErrors
    self.stopReason = stopReason
    self.queueNanoseconds = queueNanoseconds
    self.computeNanoseconds = computeNanoseconds
  }

  /// The pieces as one; nil if the call left the codes out.
  public var codes: SparseCodes? {
    guard let pieces, var codes = pieces.first else { return pieces.map { _ in SparseCodes() } }
    for piece in pieces.dropFirst() { codes.append(piece) }
    return codes
  }
}

/// Why a sequence of stages ended.
public enum StopReason: UInt32, Sendable {
  /// Every granularity that was asked for has been sent.
  case complete = 1
  /// The FVU asked for was reached.
  case targetFVU = 2
  /// The server was busy and answered a smaller granularity, as the call allowed.
  case overload = 3
}

/// The activations that codes stand for.
public struct DecodeResponse: Sendable {
  /// The model's name.
  public var model: String
  /// The version that answered.
  public var version: UInt64
  /// Float32 `[tokens, d_model]`, in raw scale.
  public var reconstruction: PackedTensor

  /// A response.
  public init(model: String, version: UInt64, reconstruction: PackedTensor) {
    self.model = model
    self.version = version
    self.reconstruction = reconstruction
  }
}
