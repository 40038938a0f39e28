/// A model of the repository, and what the server does with it.
public struct ModelStatus: Sendable, Equatable {
  /// The model's name.
  public var name: String
  /// The version that answers; 0 if none does.
  public var servingVersion: UInt64
  /// Whether the model keeps to that version, whatever is published.
  public var pinned: Bool
  /// The versions known, ascending.
  public var versions: [ModelVersionStatus]

  /// A model.
  public init(name: String, servingVersion: UInt64, pinned: Bool, versions: [ModelVersionStatus]) {
    self.name = name
    self.servingVersion = servingVersion
    self.pinned = pinned
    self.versions = versions
  }
}

/// What a version of a model is doing.
public enum ModelState: UInt32, Sendable, CustomStringConvertible {
  /// Being read and verified.
  case loading = 1
  /// Answering.
  case ready = 2
  /// Could not be loaded; `failure` says why.
  case failed = 3
  /// Replaced or unloaded, and finishing its last requests.
  case unloading = 4
  /// In the repository, not resident.
  case available = 5

  /// The state in one word.
  public var description: String {
    switch self {
    case .loading: "loading"
    case .ready: "ready"
    case .failed: "failed"
    case .unloading: "unloading"
    case .available: "available"
    }
  }
}

/// One version of a model; facts that only its files hold are 0 or empty until it is resident.
public struct ModelVersionStatus: Sendable, Equatable {
  /// The version's number.
  public var version: UInt64
  /// What the version is doing.
  public var state: ModelState
  /// Why it failed; empty otherwise.
  public var failure: String
  /// Width of an activation.
  public var dModel: UInt32
  /// Latents in its files.
  public var latents: UInt32
  /// Latents in memory: the largest granularity that can be asked for.
  public var residentLatents: UInt32
  /// Memory taken, in bytes.
  public var residentBytes: UInt64
  /// `topk`, `threshold` or `relu`.
  public var selectionRule: String
  /// The granularities that the dictionary was made for.
  public var granularities: [CalibratedGranularity]
  /// The language model whose activations the dictionary was trained on.
  public var languageModel: String
  /// The hook point in that model.
  public var hook: String
  /// SHA-256 of the weights' file, in hexadecimal.
  public var sha256: String

  /// A version of which only the number and the state are known.
  public init(version: UInt64, state: ModelState, failure: String = "") {
    self.version = version
    self.state = state
    self.failure = failure
    dModel = 0
    latents = 0
    residentLatents = 0
    residentBytes = 0
    selectionRule = ""
    granularities = []
    languageModel = ""
    hook = ""
    sha256 = ""
  }
}

/// What a dictionary measured at a granularity when it was made.
public struct CalibratedGranularity: Sendable, Equatable {
  /// Number of leading latents.
  public var latents: UInt32
  /// The dictionary's own k there; 0 if the selection rule has none.
  public var k: UInt32
  /// Mean number of active latents a token.
  public var l0: Float
  /// Fraction of variance unexplained.
  public var fvu: Float

  /// A granularity.
  public init(latents: UInt32, k: UInt32, l0: Float, fvu: Float) {
    self.latents = latents
    self.k = k
    self.l0 = l0
    self.fvu = fvu
  }
}
