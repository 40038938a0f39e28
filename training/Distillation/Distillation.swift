internal import Glibc
internal import GranuleData
public import GranuleDictionary
internal import GranuleErrors
internal import GranuleEvaluation
internal import GranuleFiles
internal import GranuleLanguageModel
internal import GranuleObjective
internal import GranuleRepository
public import GranuleRun
internal import GranuleTensors

/// Attribution-guided distillation of a nested dictionary (Martin-Linares & Ling, arXiv 2512.24975).
///
/// A cycle trains a dictionary that begins with the core so far; attributes the language model's loss
/// to the latents of the innermost granularity; selects the fewest that have a fixed share of it; and
/// hands only their encoder vectors on. Everything is in the distillation's folder:
///
/// - `distillation.json`: every option;
/// - `cycle-N/`: a training run, with `attribution.safetensors`, `selected-core/` (a dictionary of the
///   latents selected) and, once all of it is there, `cycle.json`;
/// - `core/`: the final core.
///
/// What is on the disk is not done again: training goes on from its last checkpoint.
public final class Distillation {
  /// Where a distillation stands.
  public struct Progress: Sendable {
    /// What is being done.
    public enum Phase: Sendable {
      /// The cycle's dictionary is being trained.
      case training(Trainer.Progress)
      /// Its latents are being attributed: the share done.
      case attribution(Double)
    }
    /// From 1.
    public var cycle: Int
    /// Number of cycles.
    public var cycles: Int
    /// What is being done.
    public var phase: Phase
    /// The share done of all cycles, 0 … 1.
    public var fraction: Double
    /// Seconds left, at the rate of this process.
    public var secondsLeft: Double
  }

  /// How a call ended.
  public enum Outcome: Sendable {
    /// The final core is in the folder's `core`.
    case finished(core: SparseAutoencoder)
    /// Stopped as asked, in this cycle.
    case interrupted(cycle: Int)
  }

  /// The folder within a distillation that holds the final core.
  public static let coreFolderName = StartingCore.distillationCoreName
  static let selectedFolderName = "selected-core"
  private static let attributionFileName = "attribution.safetensors"

  /// What is distilled.
  public let configuration: DistillationConfiguration
  /// The cycles that are done.
  public private(set) var cycles: [DistillationCycle]
  /// The block before which the language model is spliced.
  public var layer: Int { source.layer }
  /// The language model's name.
  public var languageModel: String { source.modelName }
  let folder: String
  private let source: HarvestSource
  private var lock: FolderLock?

  /// Begins a distillation in a new folder. All that can be wrong is looked at before.
  ///
  /// - Throws: `TrainingError`, `FileError` or `LanguageModelError` if the configuration,
  ///   the activations, the language model, the text or a starting core cannot be used or do not
  ///   belong together, or the folder holds a distillation already.
  public init(_ configuration: DistillationConfiguration, folder: String) throws {
    guard access("\(folder)/\(DistillationConfiguration.fileName)", F_OK) != 0 else {
      throw TrainingError(
        .alreadyExists(path: folder),
        "\(folder) holds a distillation already: resume it with --resume, or choose another --out"
      )
    }
    var configuration = configuration
    configuration.training.activations.paths =
      configuration.training.activations.paths.map(Folder.absolute)
    if case .batchtopk(let k, var core?) = configuration.training.objective {
      core.folder = Folder.absolute(core.folder)
      configuration.training.objective = .batchtopk(k: k, core: core)
    }
    configuration.model = Folder.absolute(configuration.model)
    configuration.text = configuration.text.map(Folder.absolute)
    configuration.repository = configuration.repository.map(Folder.absolute)
    self.folder = folder
    let activations: ActivationDataset
    (source, activations) = try Self.check(configuration)
    let first = configuration.training(cycle: 1, core: nil)
    try Trainer.check(first, source: FileActivations(first.activations))
    if configuration.text.isEmpty {
      try source.checkText()
      configuration.text = source.text.map { Folder.absolute($0.path) }
    }
    configuration.textFiles = try Fingerprint.text(configuration.text)
    if let repository = configuration.repository {
      try Folder.make(repository)
      guard access(repository, W_OK | X_OK) == 0 else {
        throw FileError(file: repository, fault: String(cString: strerror(errno)))
      }
    }
    self.configuration = configuration
    cycles = []
    try Folder.make(folder)
    lock = try FolderLock(folder)
    // Before the configuration, with which there is a distillation.
    try RunActivations(activations).write(to: folder)
    try configuration.write(to: folder)
  }

  /// Takes up a distillation where it was left.
  ///
  /// - Throws: as `init(_:folder:)`, or if there is none, another process is at it, its files are
  ///   damaged, or the activations differ from those that it began with.
  public init(resuming folder: String) throws {
    configuration = try DistillationConfiguration(folder: folder)
    self.folder = folder
    lock = try FolderLock(folder)
    let activations: ActivationDataset
    (source, activations) = try Self.check(configuration)
    try RunActivations.check(activations, of: folder)
    cycles = []
    for number in 1...configuration.cycles {
      let path = Self.cycleFolder(folder, number)
      guard access("\(path)/\(DistillationCycle.fileName)", F_OK) == 0 else { break }
      let cycle = try DistillationCycle(folder: path)
      let expected = cycles.last?.selected.count ?? cycle.coreLatents
      guard cycle.number == number, cycle.coreLatents == expected,
        cycle.candidates <= configuration.training.latents
      else {
        throw TrainingError(
          .damaged(file: "\(path)/\(DistillationCycle.fileName)"),
          "\(path)/\(DistillationCycle.fileName): does not follow from the cycle before: cycle "
            + "\(cycle.number), a core of \(cycle.coreLatents), \(cycle.candidates) candidates")
      }
      cycles.append(cycle)
    }
    if cycles.count < configuration.cycles { try checkText() }
  }

  static func cycleFolder(_ folder: String, _ number: Int) -> String {
    "\(folder)/cycle-\(number)"
  }

  /// Looks at everything that a distillation needs beside what its first training does.
  private static func check(
    _ configuration: DistillationConfiguration
  ) throws -> (source: HarvestSource, activations: ActivationDataset) {
    try configuration.validate()
    let dataset = try ActivationDataset(paths: configuration.training.activations.paths)
    let source = try HarvestSource(of: dataset)
    let file = try GGUFFile(path: configuration.model)
    try source.check(file, path: configuration.model)
    let shape = try LlamaConfiguration(file)
    guard shape.dModel == dataset.dModel, (0...shape.blocks).contains(source.layer) else {
      throw TrainingError(
        .mismatch,
        "\(configuration.model): has d_model \(shape.dModel) and \(shape.blocks) blocks, the "
          + "activations are of d_model \(dataset.dModel), before block \(source.layer)")
    }
    let contexts = TextSequences.attributableTokens...max(shape.contextLength, 3)
    guard contexts.contains(source.context) else {
      throw TrainingError(
        .mismatch,
        "the activations are of sequences of \(source.context) tokens, attribution in "
          + "\(shape.name) needs \(contexts.lowerBound) … \(contexts.upperBound)")
    }
    let text = text(configuration, source)
    for path in try HarvestConfiguration.textFiles(text) where access(path, R_OK) != 0 {
      throw TrainingError(
        .missing(path: path),
        "\(path): \(String(cString: strerror(errno))); name text to attribute on with --text")
    }
    // Says now, not after a cycle's training, if all the files are empty.
    try TextSequences.requireAttributableText(
      text, tokenizer: Tokenizer(file), context: source.context)
    return (source, dataset)
  }

  private static func text(
    _ configuration: DistillationConfiguration, _ source: HarvestSource
  ) -> [String] {
    configuration.text.isEmpty ? source.text.map(\.path) : configuration.text
  }

  /// - Throws: `TrainingError` if the text differs from what the distillation began with.
  private func checkText() throws {
    guard let begun = configuration.textFiles,
      let change = Fingerprint.changes(
        from: begun, to: try Fingerprint.text(configuration.text)
      ).first
    else { return }
    throw TrainingError(
      .changed(path: folder),
      "\(folder): the text to attribute on differs from the text that it began with: \(change). Restore "
        + "it, or begin another distillation")
  }

  /// Distils to the end, or until told to stop.
  ///
  /// - Parameters:
  ///   - onProgress: called after each step of training and each batch of attribution.
  ///   - onCycle: told each cycle that this call finishes.
  ///   - shouldStop: asked as often; true leaves a checkpoint and returns.
  /// - Throws: as `Trainer.train`, and where attribution finds nothing or a file cannot be written.
  public func run(
    onProgress: (Progress) -> Void = { _ in }, onCycle: (DistillationCycle) -> Void = { _ in },
    shouldStop: () -> Bool = { false }
  ) throws -> Outcome {
    defer { lock = nil }
    var clock = WorkClock(configuration, cyclesDone: cycles.count)
    for number in cycles.count + 1..<max(configuration.cycles, cycles.count) + 1 {
      do {
        guard
          let cycle = try runCycle(
            number,
            onProgress: { phase in
              let (fraction, secondsLeft) = clock.advance(cycle: number, phase)
              onProgress(
                Progress(
                  cycle: number, cycles: configuration.cycles, phase: phase, fraction: fraction,
                  secondsLeft: secondsLeft))
            }, shouldStop: shouldStop)
        else { return .interrupted(cycle: number) }
        cycles.append(cycle)
        onCycle(cycle)
      } catch is CancellationError {
        return .interrupted(cycle: number)
      }
    }
    return .finished(core: try finalCore())
  }

  // MARK: A cycle

  /// nil if it was told to stop while it trained.
  private func runCycle(
    _ number: Int, onProgress: (Progress.Phase) -> Void, shouldStop: () -> Bool
  ) throws -> DistillationCycle? {
    let run = Self.cycleFolder(folder, number)
    if !Folder.isFolder("\(run)/\(Trainer.dictionaryFolderName)") {
      let isNew = access("\(run)/\(TrainingConfiguration.fileName)", F_OK) != 0
      if isNew {
        // Every cycle on the same, also if a harvest goes on.
        try RunActivations.check(
          ActivationDataset(paths: configuration.training.activations.paths), of: folder)
      }
      let core = "\(Self.cycleFolder(folder, number - 1))/\(Self.selectedFolderName)"
      let training = configuration.training(cycle: number, core: number > 1 ? core : nil)
      let trainer =
        isNew
        ? try Trainer(training, source: FileActivations(training.activations), run: run)
        : try Trainer(resuming: run, source: FileActivations(run: run))
      try checkCore(trainer.configuration, of: run)
      guard
        case .finished = try trainer.train(
          onProgress: { onProgress(.training($0)) }, shouldStop: shouldStop)
      else { return nil }
    }
    let training = try TrainingConfiguration(run: run)
    try checkCore(training, of: run)
    let dictionary = try SparseAutoencoder(folder: "\(run)/\(Trainer.dictionaryFolderName)")
    let attribution = try attribute(
      dictionary, granularity: training.prefixes[0], run: run, onProgress: onProgress,
      shouldStop: shouldStop)
    let selection = try CoreSelection(
      scores: attribution.scores, coverage: configuration.coverage)
    let selected = features(selection, attribution, coreLatents: training.coreLatents)
    guard number == configuration.cycles || selected.count < training.latents else {
      throw TrainingError(
        .unusable(input: "cycle \(number)"),
        "cycle \(number) selected all \(training.latents) latents, which leaves none to train "
          + "beside them: begin another distillation with a lower --coverage or a smaller first "
          + "granularity")
    }
    var cycle = DistillationCycle(
      number: number, coreLatents: training.coreLatents, candidates: attribution.scores.count,
      selected: selected, kept: selected.count { $0.latent < training.coreLatents },
      coverageCurve: selection.coverageCurve,
      rows: dictionary.granularities.map {
        .init(latents: $0.latents, l0: Double($0.l0 ?? 0), fvu: Double($0.fvu ?? 0))
      }, attribution: attribution)
    let totals = try TrainingTotals(run: run)
    cycle.trainingSeconds = totals.seconds
    cycle.flooredShare = Double(totals.flooredSteps) / Double(max(totals.steps, 1))

    let core = "\(run)/\(Self.selectedFolderName)"
    if !Folder.isFolder(core) {
      let history = cycles.map(\.selected) + [selected]
      try Self.core(
        of: selected.map { (number, $0.latent) }, like: dictionary,
        found: Self.distilled(selected.map(\.id), history), open: { _ in dictionary }
      ).write(newFolder: core)
    }
    if let repository = configuration.repository {
      let (models, name) = (ModelRepository(path: repository), configuration.publishedName)
      let folder = "\(run)/\(Trainer.dictionaryFolderName)"
      // A process that was killed right here may have published it.
      cycle.publishedVersion = Int(
        try models.newestVersion(of: name, holding: folder)
          ?? models.publish(folder: folder, name: name))
    }
    try cycle.write(to: run)
    return cycle
  }

  /// - Throws: `TrainingError` if a cycle's run has another core than the cycle before selected.
  private func checkCore(_ training: TrainingConfiguration, of run: String) throws(TrainingError) {
    guard let last = cycles.last, training.coreLatents != last.selected.count else { return }
    let before = "\(Self.cycleFolder(folder, last.number))/\(Self.selectedFolderName)"
    throw TrainingError(
      .changed(path: run),
      "\(run): has a core of \(training.coreLatents) latents, cycle \(last.number) selected "
        + "\(last.selected.count): to have it made anew, remove it, and \(before) with the cycle.json "
        + "beside it")
  }

  private func attribute(
    _ dictionary: SparseAutoencoder, granularity: Int, run: String,
    onProgress: (Progress.Phase) -> Void, shouldStop: () -> Bool
  ) throws -> LatentAttribution {
    let path = "\(run)/\(Self.attributionFileName)"
    if access(path, F_OK) == 0 {
      return try LatentAttribution(path: path, granularity: granularity)
    }
    let start = ContinuousClock.now
    onProgress(.attribution(0))
    try checkText()
    let file = try GGUFFile(path: configuration.model)
    let tokenizer = try Tokenizer(file)
    var attribution = try LatentAttribution(
      of: dictionary, granularity: granularity, in: LanguageModel(LlamaWeights(file)),
      before: source.layer,
      sequences: TextSequences.sample(
        Self.text(configuration, source), tokenizer: tokenizer, context: source.context,
        tokens: configuration.attributionTokens), endTokens: tokenizer.endTokens,
      aggregation: configuration.aggregation,
      onProgress: { onProgress(.attribution($0)) }, shouldStop: shouldStop)
    attribution.seconds = (ContinuousClock.now - start) / .seconds(1)
    try attribution.write(to: path)
    return attribution
  }

  /// What was selected, with the number that each has in every cycle: a core's latents are those of
  /// the cycle before in their order, all others are new.
  private func features(
    _ selection: CoreSelection, _ attribution: LatentAttribution, coreLatents: Int
  ) -> [DistillationCycle.Feature] {
    let known = cycles.last?.selected.map(\.id) ?? Array(0..<coreLatents)
    var next = (cycles.flatMap { $0.selected.map(\.id) }.max() ?? -1) + 1
    next = max(next, coreLatents)
    return selection.latents.map { latent in
      let id = latent < coreLatents ? known[latent] : next
      if latent >= coreLatents { next += 1 }
      return DistillationCycle.Feature(
        id: id, latent: latent, attribution: attribution.scores[latent],
        frequency: attribution.frequencies[latent])
    }
  }
}
