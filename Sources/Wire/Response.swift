/// What a server sends.
public struct Response: Sendable {
  /// The request's id; 0 if no request could be read.
  public var id: UInt64
  /// True on exactly one response for each request: the only one, the last stage, or the error.
  public var last: Bool
  /// The answer, or why there is none. Stages sent before an error stay valid.
  public var result: Result<Body, ServerError>

  /// A response.
  public init(id: UInt64, last: Bool = true, result: Result<Body, ServerError>) {
    self.id = id
    self.last = last
    self.result = result
  }

  /// The kinds of answer.
  public enum Body: Sendable {
    /// To `encode`, once a stage.
    case encode(EncodeResponse)
    /// To `decode`.
    case decode(DecodeResponse)
    /// To `listModels`.
    case listModels([ModelStatus])
    /// To `status`.
    case status(ServerStatus)
    /// To `cancel`: whether the request was in flight.
    case cancel(found: Bool)
    /// To `loadModel`, `unloadModel` and `resizeModel`, once the change has taken effect.
    case model(ModelStatus)
  }
}

/// The codes of a request's tokens at one granularity.
public struct EncodeResponse: Sendable {
  /// The model's name.
  public var model: String
  /// The version that answered.
  public var version: UInt64
  /// The granularity used.
  public var granularity: UInt32
  /// The k used; 0 if the selection rule has none.
  public var k: UInt32
  /// All active latents, or only those that changed; nil if the request left them out.
  public var codes: PackedCodes?
  /// Latents of the previous stage that are no longer active, if stages carry only changes.
  public var removed: PackedCodes?
  /// Float32 `[tokens, d_model]`, in raw scale; nil if it was not asked for.
  public var reconstruction: PackedTensor?
  /// Fraction of variance unexplained over the request's tokens; nil without a stored activation
  /// mean.
  public var fvu: Float?
  /// ‖x − x̂‖² of each token: `Float [tokens]`.
  public var squaredErrors: SharedBytes
  /// Why this was the last stage; nil on the others.
  public var stopReason: StopReason?
  /// From the frame's arrival, or the previous stage, until a worker took the request.
  public var queueNanoseconds: UInt64
  /// Wall-clock time from a worker's first touch to the last piece done.
  public var computeNanoseconds: UInt64

  /// A response.
  public init(
    model: String, version: UInt64, granularity: UInt32, k: UInt32, codes: PackedCodes?,
    removed: PackedCodes? = nil, reconstruction: PackedTensor?, fvu: Float?,
    squaredErrors: SharedBytes, stopReason: StopReason?, queueNanoseconds: UInt64,
    computeNanoseconds: UInt64
  ) {
    self.model = model
    self.version = version
    self.granularity = granularity
    self.k = k
    self.codes = codes
    self.removed = removed
    self.reconstruction = reconstruction
    self.fvu = fvu
    self.squaredErrors = squaredErrors
    self.stopReason = stopReason
    self.queueNanoseconds = queueNanoseconds
    self.computeNanoseconds = computeNanoseconds
  }

  /// Replaces changes by whole codes; a stage that carries whole codes stays as it is.
  ///
  /// - Parameter previous: the whole codes of the previous stage.
  /// - Throws: INVALID_ARGUMENT if the changes do not fit `previous`.
  public mutating func completeCodes(with previous: PackedCodes) throws(ServerError) {
    guard let changed = codes, let removed else { return }
    codes = try previous.applying(changed: changed, removed: removed)
    self.removed = nil
  }
}
