/// Which activations of which files a run uses, and how many of them it keeps from training.
public struct ActivationFiles: Sendable, Equatable {
  /// Files and folders of activations.
  public var paths: [String]
  /// Sequences to use, nil for all.
  public var sequences: Range<Int>?
  /// Number of last sequences that are kept from training, to validate and calibrate on; nil: a tenth.
  public var heldOutSequences: Int?

  /// Activations of files.
  public init(_ paths: [String] = [], sequences: Range<Int>? = nil, heldOutSequences: Int? = nil) {
    self.paths = paths
    self.sequences = sequences
    self.heldOutSequences = heldOutSequences
  }
}
