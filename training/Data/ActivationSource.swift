public import GranuleErrors
public import GranuleTensors

/// Where a training run takes its batches from: files, or rows that a program pushes.
public protocol ActivationSource: AnyObject, Sendable {
  /// Length of an activation.
  var dModel: Int { get }
  /// The language model that activations come from and where in it; nil if unknown.
  var origin: ActivationDataset.Origin? { get }
  /// The files that activations are read from; without paths if there are none.
  var files: ActivationFiles { get }
  /// Whether `statistics` answers at once. Otherwise it waits for a producer.
  var isReady: Bool { get }
  /// The activations that training takes its batches from, nil if they are not kept.
  var training: ActivationDataset? { get throws(TrainingError) }
  /// The activations kept from training so far, nil if there are none.
  var heldOut: ActivationDataset? { get throws(TrainingError) }

  /// Number of rows of d_model float32 that the source keeps in memory for a run.
  func rowsInMemory(batchTokens: Int) -> Int

  /// What a run needs to know of the activations before its first step. The same in every call.
  ///
  /// - Throws: `TrainingError` if an activation is not finite, all are the same, or a stream ended
  ///   without any.
  func statistics() throws(TrainingError) -> ActivationStatistics

  /// Activations at even distances over those that are there: [at most tokens, d_model], raw.
  func sample(tokens: Int) throws(TrainingError) -> FloatStorage

  /// Begins to deliver batches.
  func batches(_ order: BatchOrder) throws(TrainingError) -> any BatchReader

  /// Tells the source that the run takes no more batches.
  func finish()

  /// Writes into a run's folder what `check(run:)` compares when the run is resumed.
  ///
  /// - Throws: `FileError` if it cannot be written.
  func record(run: String) throws

  /// - Throws: `TrainingError` if the activations differ from those that the run began with.
  func check(run: String) throws
}

/// How a run wants its batches.
public struct BatchOrder: Sendable {
  /// Tokens a batch.
  public var batchTokens: Int
  /// The first step whose batch is delivered, counted from 0.
  public var firstStep: Int
  /// The step after the last one whose batch is delivered.
  public var endStep: Int
  /// Seed of the order of tokens.
  public var seed: UInt64
  /// Factor that activations are multiplied by.
  public var scale: Double

  /// The batches of the steps `firstStep` ..< `endStep`.
  public init(batchTokens: Int, firstStep: Int, endStep: Int, seed: UInt64, scale: Double) {
    self.batchTokens = batchTokens
    self.firstStep = firstStep
    self.endStep = endStep
    self.seed = seed
    self.scale = scale
  }
}

/// Delivers a run's batches one after the other.
public protocol BatchReader: AnyObject {
  /// The next step's batch, nil if the source has ended. It is valid until the next call, which may
  /// wait for data.
  ///
  /// - Throws: `TrainingError` if the source was aborted.
  func next() throws(TrainingError) -> ActivationBatch?

  /// Where a row of the last batch comes from, for messages.
  func describe(row: Int) -> String
}

/// A step's tokens.
public struct ActivationBatch {
  /// [tokens, d_model], scaled; valid until the next batch is asked for.
  public var activations: FloatStorage
  /// Number of each token in the order in which the source has them: [tokens].
  public var indices: [Int]
  /// How long the step had to wait for it.
  public var secondsWaited: Double

  /// A batch.
  public init(activations: FloatStorage, indices: [Int], secondsWaited: Double) {
    self.activations = activations
    self.indices = indices
    self.secondsWaited = secondsWaited
  }
}
