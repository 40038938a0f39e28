public import GranuleErrors
internal import GranuleFiles
public import GranuleTensors

/// Activations in files as a source of batches: every epoch all of them, shuffled, read ahead of the
/// step. What a run trains on and what it holds out follow from the files alone.
public final class FileActivations: ActivationSource {
  /// The files, by absolute paths.
  public let files: ActivationFiles
  /// The activations trained on.
  public var training: ActivationDataset? { trained }
  /// The activations kept from training, nil if there are none.
  public let heldOut: ActivationDataset?
  /// The activations trained on.
  public let trained: ActivationDataset
  private let all: ActivationDataset

  /// Length of an activation.
  public var dModel: Int { trained.dModel }
  /// What the files say of where their activations come from.
  public var origin: ActivationDataset.Origin? { all.origin }
  /// Always: files are there.
  public var isReady: Bool { true }

  /// Opens files and splits their activations.
  ///
  /// - Throws: `TrainingError` or `FileError` if they cannot be opened, or are too few.
  public init(_ files: ActivationFiles) throws {
    all = try ActivationDataset(paths: files.paths)
    self.files = ActivationFiles(
      files.paths.map(Folder.absolute), sequences: files.sequences,
      heldOutSequences: files.heldOutSequences)
    var dataset = all
    if let sequences = files.sequences { dataset = try dataset.selecting(sequences: sequences) }
    let count = dataset.sequenceCount
    let heldOut = files.heldOutSequences ?? (count > 1 ? max(1, count / 10) : 0)
    guard heldOut < count else {
      throw TrainingError(
        .invalid(field: "held-out sequences", value: "\(heldOut)", limit: "below \(count)"),
        "\(heldOut) sequences are to be held out, but there are only \(count) to train on")
    }
    guard heldOut > 0 else {
      (trained, self.heldOut) = (dataset, nil)
      return
    }
    trained = try dataset.selecting(sequences: 0..<count - heldOut)
    self.heldOut = try dataset.selecting(sequences: count - heldOut..<count)
  }

  /// The batches that are read ahead.
  public func rowsInMemory(batchTokens: Int) -> Int { BatchPrefetcher.batches * batchTokens }

  /// Measured on at most 2¹⁸ tokens at even distances. Looks at the held-out activations, too, so that
  /// a bad one is found before the first validation.
  public func statistics() throws(TrainingError) -> ActivationStatistics {
    let statistics = try ActivationStatistics(trained)
    if let heldOut { _ = try ActivationStatistics.measure(heldOut) }
    return statistics
  }

  /// Tokens at even distances over those trained on.
  public func sample(tokens: Int) -> FloatStorage { trained.sample(tokens: tokens) }

  /// A reader on a thread of its own.
  public func batches(_ order: BatchOrder) throws(TrainingError) -> any BatchReader {
    BatchPrefetcher(
      try BatchSampler(trained, scale: order.scale, seed: order.seed),
      batchTokens: order.batchTokens, step: order.firstStep, steps: order.endStep)
  }

  /// Files need not be told.
  public func finish() {}

  /// Writes `activations.json`.
  public func record(run: String) throws { try RunActivations(all).write(to: run) }

  /// Compares the files with `activations.json`.
  public func check(run: String) throws { try RunActivations.check(all, of: run) }
}
