internal import Glibc
public import GranuleData
public import GranuleDictionary
internal import GranuleErrors
internal import GranuleFiles
internal import GranuleObjective

/// Trains a nested dictionary on batches of a source. Everything that it makes is in the run's folder:
/// `config.json`, `metrics.jsonl`, `checkpoints/`, and at the end `dictionary/`, which SAELens loads.
public final class Trainer {
  /// How a run ended.
  public enum Outcome: Sendable {
    /// The dictionary is in the run's folder `dictionary`.
    case finished(SparseAutoencoder)
    /// It was told to stop. A checkpoint holds what was done, unless the loss looked like diverging:
    /// then the run continues from `checkpointStep`.
    case interrupted(step: Int)
  }

  /// The folder within a run that holds the finished dictionary.
  public static let dictionaryFolderName = "dictionary"

  /// The run's configuration.
  public let configuration: TrainingConfiguration
  /// Where the batches come from.
  public let source: any ActivationSource
  /// Why the newest checkpoint could not be read, if an older one was taken instead.
  public let damagedCheckpoint: String?
  private let run: String
  /// Held until training ends.
  private var lock: FolderLock?
  private let core: StartingCore?
  /// What the run begins or continues with; nil if the source is not ready for a beginning.
  private var start: Checkpoint?
  private var startedFromCheckpoint: Bool
  private var session: TrainingSession?

  /// Begins a run in a new folder. If the source is not ready, what depends on its activations is
  /// checked when training begins.
  ///
  /// - Throws: `TrainingError` or `FileError` if the configuration or the activations are not
  ///   usable, there is too little memory, or the folder holds a run already.
  public init(
    _ configuration: TrainingConfiguration, source: any ActivationSource, run: String
  ) throws {
    try configuration.validate()
    guard access("\(run)/\(TrainingConfiguration.fileName)", F_OK) != 0 else {
      throw TrainingError(
        .alreadyExists(path: run),
        "\(run) holds a run already: resume it with --resume, or choose another --out")
    }
    (self.configuration, core) = try Self.resolved(configuration, source)
    start =
      source.isReady ? try .initial(self.configuration, source: source, core: core) : nil
    startedFromCheckpoint = false
    self.source = source
    self.run = run
    damagedCheckpoint = nil
    try Folder.make(run)
    lock = try FolderLock(run)
    if let core {
      // A copy, so that the run can be resumed if the folder that it came from is gone.
      let copy = "\(run)/\(StartingCore.folderName)"
      try Folder.make(copy)
      try core.dictionary.write(to: copy)
    }
    // Before the configuration, which makes the folder a run.
    try source.record(run: run)
    try self.configuration.write(to: run)
  }

  /// Resumes a run from its last checkpoint; without one, from the start.
  ///
  /// - Throws: `TrainingError` or `FileError` if there is no run, another process trains it, its
  ///   files are damaged, or the source differs from the one that the run began with.
  public init(resuming run: String, source: any ActivationSource) throws {
    configuration = try TrainingConfiguration(run: run)
    self.source = source
    self.run = run
    lock = try FolderLock(run)
    guard source.files == configuration.activations else {
      throw TrainingError(
        .changed(path: run),
        "\(run): began with other files of activations, or other sequences of them; resume it with "
          + "those that its \(TrainingConfiguration.fileName) names")
    }
    try source.check(run: run)
    core =
      configuration.objective.core == nil
      ? nil : try StartingCore(folder: "\(run)/\(StartingCore.folderName)")
    let coreDModel = core?.dictionary.dModel ?? source.dModel
    guard core?.latents ?? 0 == configuration.coreLatents, coreDModel == source.dModel else {
      throw TrainingError(
        .damaged(file: "\(run)/\(StartingCore.folderName)"),
        "\(run)/\(StartingCore.folderName): is not the core of the run's configuration, which has "
          + "\(configuration.coreLatents) latents and d_model \(source.dModel)")
    }
    var damaged: String?
    start = try Checkpoint.latest(
      run: run, latents: configuration.latents, dModel: source.dModel,
      hasThresholds: configuration.objective.kind == .jumprelu,
      onDamaged: { damaged = $0 })
    damagedCheckpoint = damaged
    startedFromCheckpoint = start != nil
    if start == nil, source.isReady {
      start = try .initial(configuration, source: source, core: core)
    }
  }

  /// Checks all that beginning a run checks, and writes nothing.
  ///
  /// - Throws: as `init(_:source:run:)`.
  package static func check(
    _ configuration: TrainingConfiguration, source: any ActivationSource
  ) throws {
    try configuration.validate()
    let (resolved, _) = try resolved(configuration, source)
    try resolved.checkMemory(source: source)
    _ = try source.statistics()
  }

  /// The configuration with what the source and the core's folder say, and the core, checked.
  private static func resolved(
    _ configuration: TrainingConfiguration, _ source: any ActivationSource
  ) throws -> (TrainingConfiguration, StartingCore?) {
    var result = configuration
    result.activations = source.files
    if result.languageModel.isEmpty { result.languageModel = source.origin?.languageModel ?? "" }
    if result.hook.isUnknown { result.hook = source.origin?.hook ?? "" }
    guard case .batchtopk(let k, var chosen?) = configuration.objective else {
      return (result, nil)
    }
    chosen.folder = Folder.absolute(chosen.folder)
    let core = try StartingCore(folder: chosen.folder)
    try core.check(
      dModel: source.dModel, languageModel: result.languageModel, hook: result.hook)
    chosen.latents = core.latents
    result.objective = .batchtopk(k: k, core: chosen)
    try result.validate()
    return (result, core)
  }

  /// Steps done so far.
  public var step: Int { session?.state.step ?? start?.step ?? 0 }

  /// The step of the newest checkpoint, nil if there is none yet.
  public var checkpointStep: Int? {
    session?.checkpointStep ?? (startedFromCheckpoint ? start?.step : nil)
  }

  /// Number of the run's steps in which the core alone had more active latents than three quarters of
  /// k: the others were given a quarter of k, so that there were more than k in all.
  public var flooredSteps: Int { session?.log.totals.flooredSteps ?? 0 }

  /// Trains to the end of the run or of the source, or until told to stop.
  ///
  /// - Parameters:
  ///   - onProgress: called after every step, and while the dictionary is measured.
  ///   - shouldStop: asked as often; true writes a checkpoint and returns.
  /// - Throws: `TrainingError` if training diverged, a token cannot be encoded or the source was
  ///   aborted; `FileError` if a file cannot be written. The last checkpoint stays, and another batch
  ///   has confirmed its weights.
  public func train(
    onProgress: (Progress) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws -> Outcome {
    defer {
      lock = nil
      source.finish()
    }
    let start = try start ?? .initial(configuration, source: source, core: core)
    self.start = start
    let session = try TrainingSession(
      configuration, source: source, run: run, core: core, state: start,
      checkpointStep: checkpointStep)
    self.session = session
    return try session.train(onProgress: onProgress, shouldStop: shouldStop)
  }
}

extension FileActivations {
  /// The activations that a run trains on, and those that it holds out.
  ///
  /// - Throws: `TrainingError` or `FileError` if they cannot be opened, or differ from those that the
  ///   run began with.
  public convenience init(run: String) throws {
    try self.init(TrainingConfiguration(run: run).activations)
    try check(run: run)
  }
}
