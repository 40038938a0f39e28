/// What a caller asks, in any protocol.
public enum Call: Sendable {
  /// Turn activations into sparse codes.
  case encode(EncodeRequest)
  /// Turn sparse codes back into activations.
  case decode(DecodeRequest)
  /// List every model of the repository with its versions.
  case listModels
  /// Report the server's load and counts.
  case status
  /// Serve a version and keep to it, or keep it resident beside the one that serves; version 0
  /// follows the newest. Administration.
  case loadModel(name: String, version: UInt64, beside: Bool)
  /// Stop serving a model until it is loaded again; a version other than 0 unloads only that
  /// version, which was loaded beside. Administration.
  case unloadModel(name: String, version: UInt64)
  /// Keep this many latents resident; 0 keeps all. Administration.
  case resizeModel(name: String, granularity: UInt32)

  /// The method, as metrics name it.
  public var method: CallMethod {
    switch self {
    case .encode: .encode
    case .decode: .decode
    case .listModels: .listModels
    case .status: .status
    case .loadModel: .loadModel
    case .unloadModel: .unloadModel
    case .resizeModel: .resizeModel
    }
  }
}

/// Names of what can be asked, as metrics show them.
public enum CallMethod: String, Sendable, CaseIterable {
  /// The calls, as in `Call`.
  case encode, decode
  /// `Call.listModels`.
  case listModels = "list_models"
  /// `Call.status`.
  case status
  /// The end of another call of the same connection.
  case cancel
  /// `Call.loadModel`.
  case loadModel = "load_model"
  /// `Call.unloadModel`.
  case unloadModel = "unload_model"
  /// `Call.resizeModel`.
  case resizeModel = "resize_model"
  /// A request of a kind that this server does not know, or of no kind.
  case unknown
}

/// Asks for the sparse codes of activations.
public struct EncodeRequest: Sendable {
  /// The model's name.
  public var model: String
  /// The version that must answer; 0 is the one being served.
  public var version: UInt64
  /// `[tokens, d_model]`, raw: scaling and centring belong to the dictionary.
  public var activations: PackedTensor
  /// Granularities to encode at, strictly ascending, each at least 1; empty asks for one, the largest
  /// resident.
  public var granularities: [UInt32]
  /// Latents a token; 0 takes the dictionary's own k for each granularity.
  public var k: UInt32
  /// The least granularity that is acceptable under load; 0 accepts only the granularities asked for.
  public var minGranularity: UInt32
  /// Stop after the first stage whose FVU is at most this; 0 goes through all.
  public var targetFVU: Float
  /// Whether stages after the first carry only what changed.
  public var delta: Bool
  /// Whether to send the reconstruction too.
  public var returnReconstruction: Bool
  /// Whether to leave the codes out.
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
  /// The version that must answer; 0 is the one being served.
  public var version: UInt64
  /// The codes, unchecked: their rows are checked as they are decoded.
  public var codes: PackedCodes

  /// A request.
  public init(model: String, version: UInt64 = 0, codes: PackedCodes) {
    self.model = model
    self.version = version
    self.codes = codes
  }
}
