/// What a client asks.
public struct Request: Sendable {
  /// Chosen by the client; not 0, and unique among its requests in flight on a connection.
  public var id: UInt64
  /// How long the answer is of use, in milliseconds from the frame's arrival; 0: for ever.
  public var timeoutMilliseconds: UInt32
  /// What is asked.
  public var body: Body

  /// A request.
  public init(id: UInt64, timeoutMilliseconds: UInt32 = 0, body: Body) {
    self.id = id
    self.timeoutMilliseconds = timeoutMilliseconds
    self.body = body
  }

  /// The kinds of request, without what they carry.
  public enum Kind: Sendable {
    /// As in `Body`.
    case encode, decode, listModels, status, cancel, loadModel, unloadModel, resizeModel
  }

  /// The kinds of request.
  public enum Body: Sendable {
    /// Activations to sparse codes.
    case encode(EncodeRequest)
    /// Sparse codes to activations.
    case decode(DecodeRequest)
    /// Every model of the repository, and its versions.
    case listModels
    /// How the server is.
    case status
    /// End the request with this id, of the same connection.
    case cancel(requestID: UInt64)
    /// Serve a version and keep to it, or keep it resident beside the one that serves; version 0:
    /// follow the newest. Administration.
    case loadModel(name: String, version: UInt64, beside: Bool)
    /// Stop serving a model until it is loaded again; a version other than 0: only that one, which
    /// was loaded beside. Administration.
    case unloadModel(name: String, version: UInt64)
    /// Keep this many latents resident; 0: all. Administration.
    case resizeModel(name: String, granularity: UInt32)
  }
}

/// Asks for the sparse codes of activations.
public struct EncodeRequest: Sendable {
  /// The model's name.
  public var model: String
  /// The version that must answer; 0: the one being served.
  public var version: UInt64
  /// `[tokens, d_model]`, raw: scaling and centring belong to the dictionary.
  public var activations: PackedTensor
  /// Strictly ascending, each at least 1; empty: one, the largest resident.
  public var granularities: [UInt32]
  /// Latents a token; 0: the dictionary's own for each granularity.
  public var k: UInt32
  /// The least granularity that will do under load; 0: never less than asked.
  public var minGranularity: UInt32
  /// Stop after the first stage whose FVU is at most this; 0: go through all.
  public var targetFVU: Float
  /// Stages after the first carry changes only.
  public var delta: Bool
  /// Send the reconstruction too.
  public var returnReconstruction: Bool
  /// Leave the codes out.
  public var omitCodes: Bool

  /// A request with everything but the model and the activations at its default.
  public init(
    model: String, version: UInt64 = 0, activations: PackedTensor, granularities: [UInt32] = [],
    k: UInt32 = 0, minGranularity: UInt32 = 0, targetFVU: Float = 0, delta: Bool = false,
    returnReconstruction: Bool = false, omitCodes: Bool = false
  ) {
    self.model = model
    self.version = version
    self.activations = activations
    self.granularities = granularities
    self.k = k
    self.minGranularity = minGranularity
    self.targetFVU = targetFVU
    self.delta = delta
    self.returnReconstruction = returnReconstruction
    self.omitCodes = omitCodes
  }
}

/// Asks for the activations that sparse codes stand for.
public struct DecodeRequest: Sendable {
  /// The model's name.
  public var model: String
  /// The version that must answer; 0: the one being served.
  public var version: UInt64
  /// The codes.
  public var codes: PackedCodes

  /// A request.
  public init(model: String, version: UInt64 = 0, codes: PackedCodes) {
    self.model = model
    self.version = version
    self.codes = codes
  }
}
