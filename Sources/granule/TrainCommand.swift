import ArgumentParser
import Foundation
import SparseAutoencoder
import StrictJSON
import Tensors
import Training

struct TrainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Train a Matryoshka TopK dictionary on activations.",
    discussion: """
      Every granularity is a prefix of the dictionary that is trained to reconstruct by itself. The \
      run's folder receives config.json, metrics.jsonl (a line a step), checkpoints/ and at the end \
      dictionary/, a folder that SAELens loads and `granule publish` publishes. Ctrl-C writes a \
      checkpoint and exits with 130; --resume goes on from there.

      Activations are .npy or .safetensors files, or folders of them: [sequences, positions, \
      d_model], whose position 0 is dropped, or [tokens, d_model].

      EXAMPLE
        granule train --activations activations/ --latents 8192 \\
          --granularities 512,1024,2048,4096,8192 --k 64 --tokens 2000000 --out runs/first
        granule train --resume --out runs/first
      """)

  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 0-35.")
  var sequences: SequenceRange?
  @Option(
    help: ArgumentHelp(
      "Keep the last so many sequences from training, to validate and calibrate on. "
        + "Default: a tenth of them."))
  var heldOutSequences: Int?
  @Option(help: "Dictionary size N.")
  var latents: Int?
  @Option(help: "Prefixes to train, ascending, the last N. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Active latents a token in the full dictionary.")
  var k: Int?
  @Option(help: "Tokens to train on; activations are reused in new order when they run out.")
  var tokens: Int?
  @Option(help: "The run's folder.")
  var out: String
  @Flag(help: "Go on with the run in --out from its last checkpoint, with its own configuration.")
  var resume = false
  @Option(help: "Tokens a step.")
  var batch = 2048
  @Option(help: "Adam's learning rate after warm-up. Default: 2e-4 / √(N / 16384).")
  var learningRate: Double?
  @Option(help: "Decoupled weight decay (AdamW).")
  var weightDecay = 0.0
  @Option(help: "Largest norm of the gradient; larger ones are scaled down. 0: no limit.")
  var gradientNorm = 1.0
  @Option(help: "Weight of the auxiliary loss that revives dead latents.")
  var auxiliaryCoefficient = 1.0 / 32
  @Option(
    help: ArgumentHelp(
      "A latent is dead after so many tokens without being active. Default: 10 million, in shorter "
        + "runs a tenth of --tokens."))
  var deadAfter: Int?
  @Option(help: "Seed of initial weights and of the order of tokens.")
  var seed: UInt64 = 0
  @Option(
    help: "Steps from one checkpoint to the next. Default: a quarter of the run, at most 1000.")
  var checkpointEvery: Int?
  @Option(
    help: ArgumentHelp(
      "Name of the language model that the activations come from, kept as provenance. "
        + "Default: what harvested files say."))
  var languageModel: String?
  @Option(
    help: "Where in that model, such as blocks.10.hook_resid_pre. Default: what the files say.")
  var hook: String?
  @Flag(help: "Print the outcome as JSON; no progress.")
  var json = false

  func validate() throws {
    if out.isEmpty { throw ValidationError("--out is empty, a folder is needed") }
    if resume {
      let given = [
        ("--activations", !activations.isEmpty), ("--sequences", sequences != nil),
        ("--held-out-sequences", heldOutSequences != nil), ("--latents", latents != nil),
        ("--granularities", granularities != nil), ("--k", k != nil), ("--tokens", tokens != nil),
        ("--learning-rate", learningRate != nil), ("--dead-after", deadAfter != nil),
        ("--checkpoint-every", checkpointEvery != nil),
      ].filter(\.1).map(\.0)
      guard given.isEmpty else {
        throw ValidationError(
          "--resume goes on with the run's own configuration: leave out "
            + given.joined(separator: ", "))
      }
      return
    }
    if activations.isEmpty { throw ValidationError("--activations: at least one path is needed") }
    if latents == nil { throw ValidationError("--latents is needed") }
    if k == nil { throw ValidationError("--k is needed") }
    if tokens == nil { throw ValidationError("--tokens is needed") }
  }

  func run() async throws {
    let trainer = try resume ? Trainer(resuming: out) : Trainer(newConfiguration(), run: out)
    let configuration = trainer.configuration
    if let damaged = trainer.damagedCheckpoint {
      printError("The newest checkpoint is damaged, an older one is taken up instead: \(damaged)")
    }
    if !json { introduce(trainer) }

    var bar = ProgressBar(isQuiet: json)
    let start = Date()
    // Only from here on: until then nothing is lost if a signal ends the process.
    Interruption.install()
    let outcome = try trainer.train(
      onProgress: { progress in
        bar.update(fraction: Double(progress.step) / Double(progress.steps), status(progress))
      }, shouldStop: { Interruption.isRequested })
    bar.finish()
    let seconds = Date().timeIntervalSince(start)

    switch outcome {
    case .interrupted(let step):
      printError(
        "Interrupted at step \(step) of \(configuration.steps); go on with:\n"
          + "  granule train --resume --out \(out)")
      throw ExitCode(Interruption.exitCode)
    case .finished(let dictionary):
      let folder = "\(out)/\(Trainer.dictionaryFolderName)"
      if json {
        let granularities = dictionary.granularities.map { granularity in
          JSONValue.object([
            .init("latents", JSONValue(granularity.latents)),
            .init("k", JSONValue(granularity.k)),
            .init("l0", JSONValue(Double(granularity.l0 ?? .nan))),
            .init("fvu", JSONValue(Double(granularity.fvu ?? .nan))),
          ])
        }
        print(
          StrictJSON.text([
            "dictionary": .string(folder), "steps": JSONValue(trainer.step),
            "seconds": JSONValue(seconds), "granularities": .array(granularities),
          ]))
        return
      }
      var table = TextTable("granularity", "k", "L0", "FVU")
      for granularity in dictionary.granularities {
        table.add(
          granularity.latents.grouped, "\(granularity.k)",
          Double(granularity.l0 ?? .nan).formatted(digits: 1),
          Double(granularity.fvu ?? .nan).formatted(digits: 4))
      }
      let on = trainer.heldOut == nil ? "the training activations" : "held-out activations"
      print("Trained in \(ProgressBar.duration(seconds)). Measured on \(on):\n\n\(table.text)")
      if let fvu = dictionary.granularities.last?.fvu, fvu >= 1 {
        print("Its reconstructions are no better than the mean: it has learnt nothing of use.")
      }
      print("The dictionary is \(folder)")
    }
  }

  private func status(_ progress: Trainer.Progress) -> String {
    let heldOut = progress.heldOutFVU.map { ", held out \($0.formatted(digits: 3))" } ?? ""
    return "step \(progress.step)/\(progress.steps)  FVU \(progress.fvu.formatted(digits: 3))"
      + "\(heldOut)  dead \(progress.deadLatents)  "
      + "\(Int(progress.tokensPerSecond).grouped) tokens/s  "
      + "\(ProgressBar.duration(progress.secondsLeft)) left"
  }

  private func newConfiguration() throws -> TrainingConfiguration {
    // validate() has seen to it that these are there.
    guard let latents, let k, let tokens else { throw ExitCode.validationFailure }
    let prefixes =
      granularities?.values ?? [16, 8, 4, 2, 1].map { latents / $0 }.filter { $0 > 0 }
    var dataset = try ActivationDataset(paths: activations)
    if let sequences { dataset = try dataset.selecting(sequences: sequences.range) }
    let heldOut =
      heldOutSequences ?? (dataset.sequenceCount > 1 ? max(1, dataset.sequenceCount / 10) : 0)
    var configuration = TrainingConfiguration(
      activations: activations.map(Folder.absolute), latents: latents, granularities: prefixes,
      k: k, tokens: tokens,
      heldOutSequences: heldOut, batchTokens: batch)
    configuration.sequences = sequences?.range
    configuration.learningRate = learningRate ?? configuration.learningRate
    configuration.weightDecay = weightDecay
    configuration.gradientNormMax = gradientNorm
    configuration.auxiliaryCoefficient = auxiliaryCoefficient
    configuration.deadAfterTokens = deadAfter ?? configuration.deadAfterTokens
    configuration.seed = seed
    configuration.checkpointEverySteps = checkpointEvery ?? configuration.checkpointEverySteps
    configuration.languageModel = languageModel ?? dataset.origin?.languageModel ?? ""
    configuration.hook = hook ?? dataset.origin?.hook ?? ""
    return configuration
  }

  private func introduce(_ trainer: Trainer) {
    let configuration = trainer.configuration
    let heldOut = trainer.heldOut.map { ", \($0.tokens.grouped) held out" } ?? ", none held out"
    let epochs = Double(configuration.tokens) / Double(trainer.training.tokens)
    print(
      """
      \(trainer.step > 0 ? "Resuming at step \(trainer.step)" : "Training") a dictionary of \
      \(configuration.latents.grouped) latents, k \(configuration.k), granularities \
      \(configuration.granularities.map(String.init).joined(separator: " "))
      on \(trainer.training.tokens.grouped) tokens of d_model \(trainer.training.dModel)\(heldOut): \
      \(configuration.tokens.grouped) tokens, \(epochs.formatted(digits: 1)) times over, in \
      \(configuration.steps.grouped) steps.
      """)
    if epochs > 4 {
      print(
        "So few tokens seen so often are learnt by heart: expect held-out FVU well above training "
          + "FVU.")
    }
    if configuration.deadAfterTokens < 10_000_000 {
      print(
        "In a run this short, latents count as dead after \(configuration.deadAfterTokens.grouped) "
          + "tokens without being active.")
    }
  }
}
