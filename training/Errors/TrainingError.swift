/// Why harvesting, training, evaluating or distilling cannot continue.
public struct TrainingError: Error, CustomStringConvertible, Sendable {
  /// What went wrong, for a program that decides what to do about it.
  public enum Kind: Sendable, Equatable {
    /// A setting is outside its limits, or does not go with another.
    case invalid(field: String, value: String, limit: String)
    /// The folder already holds a run, a harvest or a distillation.
    case alreadyExists(path: String)
    /// Something that must be there is not.
    case missing(path: String)
    /// A run or a distillation that has not finished cannot be used yet.
    case unfinished(path: String)
    /// A file of a run, a harvest or a distillation does not hold what was written.
    case damaged(file: String)
    /// Something differs from what a run, a harvest or a distillation began with.
    case changed(path: String)
    /// Two inputs do not belong together, such as activations and a dictionary of another d_model.
    case mismatch
    /// An input holds nothing to work on, or a value that cannot be used, such as a row that is not
    /// finite.
    case unusable(input: String)
    /// The loss or a weight grew without bound. The last good checkpoint stays.
    case diverged(step: Int)
    /// The machine has too little memory; both in bytes.
    case tooLittleMemory(needed: Int, available: Int)
    /// A stream of activations was aborted, or takes no more rows.
    case streamClosed
  }

  /// What went wrong.
  public let kind: Kind
  /// What is wrong, where, and the remedy if there is one, in a sentence.
  public let description: String

  /// An error with its whole message.
  public init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }

  /// `FIELD is VALUE, it must be LIMIT`
  public static func invalid(
    _ field: String, _ value: some CustomStringConvertible, _ limit: String
  ) -> TrainingError {
    TrainingError(
      .invalid(field: field, value: "\(value)", limit: limit),
      "\(field) is \(value), it must be \(limit)")
  }

  /// A file of a run, a harvest or a distillation that does not hold what was written.
  ///
  /// - Parameter fault: what is wrong in it, after the file's name and a colon.
  public static func damaged(_ file: String, _ fault: String) -> TrainingError {
    TrainingError(.damaged(file: file), "\(file): \(fault)")
  }

  /// Throws `invalid(field, value, limit)` unless a condition holds.
  package static func require(
    _ condition: Bool, _ field: String, _ value: some CustomStringConvertible, _ limit: String
  ) throws(TrainingError) {
    if !condition { throw invalid(field, value, limit) }
  }
}
