import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleTensors
import GranuleTraining

struct TrainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Train a nested dictionary on activations.",
    discussion: """
      Every granularity is a prefix of the dictionary that is trained to reconstruct on its own. The \
      run's folder receives config.json, metrics.jsonl (one line per step), checkpoints/ and at the \
      end dictionary/, a folder that SAELens loads and `granule publish` publishes. Ctrl-C writes a \
      checkpoint and exits with 130; --resume continues from there.

      Activations are .npy or .safetensors files, or folders of them: [sequences, positions, \
      d_model], whose position 0 is dropped, or [tokens, d_model].

      EXAMPLE
        granule train --activations activations/ --latents 8192 \\
          --granularities 512,1024,2048,4096,8192 --k 64 --tokens 2000000 \\
          --out runs/first
        granule train --resume --out runs/first
        granule train --config runs/first/config.json --objective batchtopk \\
          --out runs/second
        granule train --activations activations/ --core distilled/core \\
          --latents 8192 --k 32 --tokens 2000000 --out runs/with-core
      """)

  @OptionGroup var training: TrainingOptions
  @Option(help: "Folder of the run.")
  var out: String
  @Flag(help: "Continue the run in --out from its last checkpoint, with its own configuration.")
  var resume = false
  @OptionGroup var result: ResultOptions

  func validate() throws {
    if out.isEmpty { throw ValidationError("--out is empty, a folder is needed") }
    if resume {
      try training.requireNone()
    } else {
      try training.require(k: training.objective?.hasK ?? true)
    }
  }

  func run() async throws {
    let source: FileActivations
    let trainer: Trainer
    if resume {
      source = try FileActivations(run: out)
      trainer = try Trainer(resuming: out, source: source)
    } else {
      let configuration = try newConfiguration()
      source = try FileActivations(configuration.activations)
      trainer = try Trainer(configuration, source: source, run: out)
    }
    let configuration = trainer.configuration
    if let damaged = trainer.damagedCheckpoint {
      printError(
        "The newest checkpoint is damaged; the run continues from an older one: \(damaged)")
    }
    if !result.json { introduce(trainer, source) }

    let bar = ProgressBar(isQuiet: result.json)
    let start = Date()
    // Only from here on: until now nothing is lost if a signal ends the process.
    Interruption.install()
    let outcome = try trainer.train(
      onProgress: { progress in
        bar.update(
          fraction: Double(progress.step) / Double(progress.steps),
          progress.text(isDrawn: configuration.sampledGranularities != nil) + "  "
            + "\(progress.secondsLeft.duration) left")
      }, shouldStop: { Interruption.isRequested })
    bar.finish()
    switch outcome {
    case .interrupted(let step):
      throw CommandError.interrupted(interruption(of: trainer, at: step))
    case .finished(let dictionary):
      report(trainer, source, dictionary, seconds: Date().timeIntervalSince(start))
    }
  }

  private func interruption(of trainer: Trainer, at step: Int) -> String {
    let from =
      trainer.checkpointStep.map { "the previous checkpoint, of step \($0)" } ?? "the beginning"
    let reason =
      trainer.checkpointStep == step
      ? "continue with"
      : "its loss showed the first signs of divergence, so it was not kept. Continue from \(from) with"
    return "Interrupted at step \(step) of \(trainer.configuration.steps); \(reason):\n"
      + "  granule train --resume --out \(out)"
  }

  private func report(
    _ trainer: Trainer, _ source: FileActivations, _ dictionary: SparseAutoencoder, seconds: Double
  ) {
    if let warning = Self.warning(flooredSteps: trainer.flooredSteps, of: trainer.configuration) {
      printError(warning)
    }
    let folder = "\(out)/\(Trainer.dictionaryFolderName)"
    if result.json {
      print(
        StrictJSON.text([
          "dictionary": .string(folder), "steps": JSONValue(trainer.step),
          "seconds": JSONValue(seconds), "granularities": dictionary.granularitiesJSON,
        ]))
      return
    }
    let on = source.heldOut == nil ? "the training activations" : "held-out activations"
    print(
      "Trained in \(seconds.duration). Measured on \(on):\n\n" + dictionary.granularityTable.text)
    if let fvu = dictionary.granularities.last?.fvu, fvu >= 1 {
      print("Its reconstructions are no better than the mean: it has learnt nothing useful.")
    }
    print("The dictionary is \(folder)")
  }

  private func newConfiguration() throws -> TrainingConfiguration {
    let configuration = try training.configuration()
    if training.trainCoreEncoders, configuration.objective.core == nil {
      throw ValidationError("--train-core-encoders does nothing without --core: leave it out")
    }
    return configuration
  }

  private func objective(_ configuration: TrainingConfiguration) -> String {
    let name = configuration.objective.kind.rawValue
    let sampled =
      configuration.sampledGranularities.map { ", \($0) granularities drawn at each step" } ?? ""
    if let k = configuration.objective.k { return "\(name) with k \(k)\(sampled)" }
    let target = configuration.objective.jumpReLU?.targetL0.map { " towards L0 \($0)" } ?? ""
    return
      "\(name) with sparsity coefficient \(configuration.objective.coefficient)\(target)\(sampled)"
  }

  /// The warning that a core left too little of k; nil if it did not.
  static func warning(flooredSteps: Int, of configuration: TrainingConfiguration) -> String? {
    guard flooredSteps > 0 else { return nil }
    return
      "In \(flooredSteps.grouped) steps the core alone had more than three quarters of k = "
      + "\(configuration.objective.k ?? 0) active latents; the other latents got a quarter all the "
      + "same, so L0 was above k there. Use a smaller core or a larger --k to keep L0 at k."
  }

  private func introduce(_ trainer: Trainer, _ source: FileActivations) {
    let configuration = trainer.configuration
    let heldOut =
      source.heldOut.map { heldOut in
        let validated = configuration.validationTokens
        return ", \(heldOut.tokens.grouped) held out"
          + (validated < heldOut.tokens ? " (validated on \(validated.grouped) of them)" : "")
      } ?? ", none held out"
    let epochs = Double(configuration.tokens) / Double(source.trained.tokens)
    print(
      """
      \(trainer.step > 0 ? "Resuming at step \(trainer.step)" : "Training") a dictionary of \
      \(configuration.latents.grouped) latents, \(objective(configuration)), granularities \
      \(configuration.listedGranularities.map(String.init).joined(separator: " "))
      on \(source.trained.tokens.grouped) tokens of d_model \(source.trained.dModel)\(heldOut): \
      \(configuration.tokens.grouped) tokens, \(epochs.formatted(digits: 1)) times over, in \
      \(configuration.steps.grouped) steps.
      """)
    if let leftOut = configuration.granularitiesLeftOutText { print(leftOut) }
    if epochs > 4 {
      print(
        "So few tokens, seen so often, are memorised: expect a held-out FVU well above the training "
          + "FVU.")
    }
    if configuration.deadAfterTokens < 10_000_000 {
      print(
        "In a run this short, latents count as dead after \(configuration.deadAfterTokens.grouped) "
          + "tokens without being active.")
    }
  }
}

extension TrainingConfiguration {
  /// The granularities that a core leaves no room for; nil if it leaves room for all.
  var granularitiesLeftOutText: String? {
    let leftOut = granularitiesLeftOut
    if leftOut.isEmpty { return nil }
    return
      "Granularities \(leftOut.map(String.init).joined(separator: ", ")) are left out: with the core "
      + "added they would not be below \(latents)."
  }
}
