/// How codes are kept sparse while a dictionary is trained, with the settings of each way.
public enum TrainingObjective: Sendable, Equatable {
  /// The k largest pre-activations of each token (Gao et al., Scaling and evaluating sparse
  /// autoencoders).
  case topk(k: Int)
  /// The k · tokens largest of the whole batch; served with a threshold (Bussmann et al., BatchTopK
  /// Sparse Autoencoders). The latents of a core are exempt.
  case batchtopk(k: Int, core: Core? = nil)
  /// Those above a threshold of each latent, which is trained by straight-through estimates
  /// (Rajamanoharan et al., Jumping Ahead, arXiv 2407.14435).
  case jumprelu(JumpReLU)
  /// All that are positive, their sum penalised: the vanilla sparse autoencoder.
  case relu(PenaltyWeight)

  /// Which objective, without its settings: the names in a configuration's file.
  public enum Kind: String, Sendable, CaseIterable {
    case topk, batchtopk, jumprelu, relu

    /// Whether k decides how many latents are active. Otherwise a penalty does.
    public var hasK: Bool { self == .topk || self == .batchtopk }
  }

  /// A distilled core that a dictionary begins with: its encoder vectors are the first latents', in
  /// every prefix (Martin-Linares & Ling, arXiv 2512.24975).
  public struct Core: Sendable, Equatable {
    /// Folder of a dictionary that has a core.
    public var folder: String
    /// Number of latents of the core; a run finds it when it begins.
    public var latents: Int
    /// Whether the core's encoder vectors are trained. Otherwise they stay as they are.
    public var trainsEncoders: Bool

    /// The core of the dictionary in a folder.
    public init(folder: String, latents: Int = 0, trainsEncoders: Bool = false) {
      self.folder = folder
      self.latents = latents
      self.trainsEncoders = trainsEncoders
    }
  }

  /// Weight of the penalty by which JumpReLU and ReLU become sparse.
  public struct PenaltyWeight: Sendable, Equatable {
    /// Value that the weight grows to; nil: 1 with a target L0, otherwise SAELens's 0.001.
    public var coefficient: Double?
    /// Steps over which the weight grows linearly; nil: a tenth of the run.
    public var warmUpSteps: Int?

    /// A weight; nil takes the default.
    public init(coefficient: Double? = nil, warmUpSteps: Int? = nil) {
      self.coefficient = coefficient
      self.warmUpSteps = warmUpSteps
    }
  }

  /// The settings of JumpReLU.
  public struct JumpReLU: Sendable, Equatable {
    /// The penalty on active latents; a mean over tokens.
    public enum Penalty: Sendable, Equatable {
      /// The number of active latents (arXiv 2407.14435, section 3).
      case l0
      /// Σ tanh(scale · z), whose gradient reaches active latents too (Conerly et al., Dictionary
      /// Learning Optimization Techniques, 2025).
      case tanh(scale: Double)
      /// (L0 / target − 1)², L0 the batch's mean (arXiv 2407.14435, appendix on training for a given
      /// sparsity).
      case target(l0: Double)
    }

    /// SAELens's scale of the tanh penalty.
    public static let defaultTanhScale = 4.0

    /// The penalty on active latents.
    public var penalty: Penalty
    /// The penalty's weight.
    public var weight: PenaltyWeight
    /// Width ε of the rectangle within which a pre-activation moves its threshold, if activations
    /// have norm √d_model; the default is SAELens's.
    public var bandwidth: Double
    /// Thresholds at the start, all the same; nil: the value that leaves `initialL0` latents active.
    /// Low ones leave half of the latents active, whose sum is far beyond the activation.
    public var initialThreshold: Double?

    /// Settings of JumpReLU.
    public init(
      _ penalty: Penalty = .l0, weight: PenaltyWeight = PenaltyWeight(), bandwidth: Double = 0.05,
      initialThreshold: Double? = nil
    ) {
      self.penalty = penalty
      self.weight = weight
      self.bandwidth = bandwidth
      self.initialThreshold = initialThreshold
    }

    /// The mean L0 that the penalty draws to, if it has one.
    public var targetL0: Double? {
      if case .target(let l0) = penalty { l0 } else { nil }
    }
  }

  /// Which objective it is.
  public var kind: Kind {
    switch self {
    case .topk: .topk
    case .batchtopk: .batchtopk
    case .jumprelu: .jumprelu
    case .relu: .relu
    }
  }

  /// Active latents a token in the full dictionary; nil if a penalty decides.
  public var k: Int? {
    switch self {
    case .topk(let k), .batchtopk(let k, _): k
    case .jumprelu, .relu: nil
    }
  }

  /// The core that the dictionary begins with, if any.
  public var core: Core? {
    if case .batchtopk(_, let core) = self { core } else { nil }
  }

  /// JumpReLU's settings, nil for other objectives.
  public var jumpReLU: JumpReLU? {
    if case .jumprelu(let settings) = self { settings } else { nil }
  }

  /// The penalty's weight, nil if there is no penalty.
  public var penaltyWeight: PenaltyWeight? {
    switch self {
    case .topk, .batchtopk: nil
    case .jumprelu(let settings): settings.weight
    case .relu(let weight): weight
    }
  }

  /// The value that the penalty's weight grows to; 0 if there is no penalty.
  public var coefficient: Double {
    guard let weight = penaltyWeight else { return 0 }
    return weight.coefficient ?? (jumpReLU?.targetL0 == nil ? 1e-3 : 1)
  }
}

/// The loss by which dead latents learn to reconstruct what the others leave (Gao et al., appendix
/// A.2).
public struct AuxiliaryLoss: Sendable, Equatable {
  /// Weight of the loss.
  public var coefficient: Double
  /// The most dead latents that it may use a token; nil: d_model / 2.
  public var latents: Int?

  /// A loss of a weight; 1/32 is the paper's.
  public init(coefficient: Double = 1.0 / 32, latents: Int? = nil) {
    self.coefficient = coefficient
    self.latents = latents
  }
}
