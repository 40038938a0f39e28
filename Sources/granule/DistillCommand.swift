import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleRepository
import GranuleTensors
import GranuleTraining

struct DistillCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "distill",
    abstract: "Find the few latents that matter for the next token, cycle after cycle.",
    discussion: """
      Each cycle trains a nested dictionary (batchtopk), splices the reconstruction by its innermost \
      granularity into the language model, and attributes the next-token loss to the latents of that \
      granularity, as activation × gradient. It keeps the fewest latents whose attribution makes up \
      --coverage of the total; the next cycle's dictionary begins with their encoder vectors and with \
      nothing else of this one. The final core consists of the features that half of the cycles or \
      more selected (--core-rule).

      --activations are those of one layer that `granule harvest` wrote, and --model is the same \
      language model file, whose digest their manifest records. --tokens counts the tokens of one \
      cycle. The folder --out receives a run for each cycle, with the core that it selected, and the \
      final core in core/. Ctrl-C exits with 130; --resume continues from there.

      With --repository and --publish each cycle's dictionary is published when it is done, and a \
      server of that repository swaps to it.

      EXAMPLE
        granule distill --activations activations/layer-10 --model model.gguf \\
          --latents 16384 --granularities 32,512,2048,8192,16384 --k 128 \\
          --tokens 8000000 --cycles 5 --out distilled
        granule inspect distilled/core
        granule train --core distilled/core --activations activations/layer-10 \\
          --latents 8192 --k 96 --tokens 8000000 --out runs/distilled
      """)

  @OptionGroup var training: TrainingOptions
  @Option(help: "GGUF file of the language model that the activations come from.")
  var model: String?
  @Option(
    parsing: .upToNextOption,
    help: "Text files, or folders of them, to attribute on. Default: the text that was harvested.")
  var text: [String] = []
  @Option(help: "Number of cycles. Default: 7.")
  var cycles: Int?
  @Option(help: "Share of the total attribution to keep. Default: 0.9.")
  var coverage: Double?
  @Option(
    help: ArgumentHelp(
      "Summary of a latent's attributions over tokens: quantile (of absolute values) or mean-abs. "
        + "Default: quantile."))
  var aggregation: Aggregation?
  @Option(help: "Quantile to take, from 0 to 1. Default: 0.99.")
  var quantile: Double?
  @Option(
    help: "Tokens to take the quantile over: active (of the latent) or all. Default: active.",
    transform: choice)
  var quantileOver: AttributionAggregation.Positions?
  @Option(
    help: "Number of tokens to attribute per cycle, evenly spaced. Default: 65536.")
  var attributionTokens: Int?
  @Option(
    help: ArgumentHelp(
      "Rule for the features of the final core: last (those of the last cycle), intersection:N (those "
        + "of each of the last N), or votes:N (those of at least N). Default: votes of half the cycles."
    ),
    transform: { (text: String) throws -> CoreRule in
      guard let rule = CoreRule(text) else {
        throw ValidationError("\(text) is not one of last, intersection:N, votes:N")
      }
      return rule
    })
  var coreRule: CoreRule?
  @Option(help: "Model repository to publish each cycle's dictionary in; needs --publish.")
  var repository: String?
  @Option(help: "Name of the model to publish as; needs --repository.")
  var publish: String?
  @Option(help: "Folder of the distillation.")
  var out: String
  @Flag(help: "Continue the distillation in --out, with its own configuration.")
  var resume = false
  @OptionGroup var result: ResultOptions

  enum Aggregation: String, ExpressibleByArgument {
    case quantile
    case meanAbsolute = "mean-abs"
  }

  private var ownOptions: [String] {
    var options: [String] = []
    func add(_ name: String, _ isGiven: Bool) { if isGiven { options.append(name) } }
    add("--model", model != nil)
    add("--text", !text.isEmpty)
    add("--cycles", cycles != nil)
    add("--coverage", coverage != nil)
    add("--aggregation", aggregation != nil)
    add("--quantile", quantile != nil)
    add("--quantile-over", quantileOver != nil)
    add("--attribution-tokens", attributionTokens != nil)
    add("--core-rule", coreRule != nil)
    add("--repository", repository != nil)
    add("--publish", publish != nil)
    return options
  }

  func validate() throws {
    if out.isEmpty { throw ValidationError("--out is empty, a folder is needed") }
    if resume {
      try training.requireNone()
      guard ownOptions.isEmpty else {
        throw ValidationError(
          "--resume continues with the distillation's own configuration: leave out "
            + ownOptions.joined(separator: ", "))
      }
      return
    }
    try training.require(k: true)
    if model == nil {
      throw ValidationError(
        "--model is needed: name the language model that the activations come from")
    }
    if (repository == nil) != (publish == nil) {
      throw ValidationError("--repository and --publish must be given together")
    }
    if aggregation == .meanAbsolute, quantile != nil || quantileOver != nil {
      throw ValidationError(
        "--quantile and --quantile-over do nothing with mean-abs: leave them out")
    }
  }

  func run() async throws {
    let distillation =
      try resume
      ? Distillation(resuming: out) : Distillation(newConfiguration(), folder: out)
    if !result.json { introduce(distillation) }
    let bar = ProgressBar(isQuiet: result.json)
    let start = Date()
    Interruption.install()
    let outcome = try distillation.run(
      onProgress: { bar.update(fraction: $0.fraction, Self.status($0)) },
      onCycle: { cycle in
        bar.finish()
        tell(cycle, of: distillation)
      }, shouldStop: { Interruption.isRequested })
    bar.finish()
    switch outcome {
    case .interrupted(let cycle):
      throw CommandError.interrupted(
        "Interrupted in cycle \(cycle) of \(distillation.configuration.cycles); continue with:\n"
          + "  granule distill --resume --out \(out)")
    case .finished(let core):
      report(distillation, core, seconds: Date().timeIntervalSince(start))
    }
  }

  private func tell(_ cycle: DistillationCycle, of distillation: Distillation) {
    if !result.json { printError(Self.line(cycle)) }
    var training = distillation.configuration.training
    training.objective = .batchtopk(
      k: training.objective.k ?? 0, core: .init(folder: "", latents: cycle.coreLatents))
    if let leftOut = training.granularitiesLeftOutText { printError(leftOut) }
    if let share = cycle.flooredShare, share > 0 {
      printError(
        "In \((100 * share).formatted(digits: 1)) % of cycle \(cycle.number)'s steps the core "
          + "alone had more than three quarters of k active latents: L0 was above k there.")
    }
  }

  private func report(_ distillation: Distillation, _ core: SparseAutoencoder, seconds: Double) {
    let folder = "\(out)/\(Distillation.coreFolderName)"
    if result.json {
      print(
        StrictJSON.text([
          "cycles": .array(distillation.cycles.map(\.json)), "core": .string(folder),
          "core_latents": JSONValue(core.latents),
          "selections": .array(core.core?.selections.map { JSONValue($0) } ?? []),
          "seconds": JSONValue(seconds),
        ]))
      return
    }
    print("\n\(Self.table(distillation.cycles).text)")
    print(
      "The core, \(core.latents.grouped) latents (\(distillation.configuration.rule.text) of "
        + "\(distillation.cycles.count) cycles), is \(folder) (\(seconds.duration))")
  }

  private func newConfiguration() throws -> DistillationConfiguration {
    var configuration = DistillationConfiguration(
      training: try training.configuration(objective: .batchtopk), model: model ?? "")
    configuration.trainsCoreEncoders = training.trainCoreEncoders
    configuration.text = text
    configuration.cycles = cycles ?? configuration.cycles
    configuration.coverage = coverage ?? configuration.coverage
    configuration.attributionTokens = attributionTokens ?? configuration.attributionTokens
    configuration.coreRule = coreRule
    configuration.repository = repository
    configuration.publishedName = publish ?? ""
    if aggregation == .meanAbsolute {
      configuration.aggregation = .meanAbsolute
    } else if case .quantile(let standard, let positions) = configuration.aggregation {
      configuration.aggregation = .quantile(
        quantile ?? standard, over: quantileOver ?? positions)
    }
    return configuration
  }

  private func introduce(_ distillation: Distillation) {
    let configuration = distillation.configuration
    let training = configuration.training
    let done = distillation.cycles.count
    print(
      """
      \(done > 0 ? "Resuming after cycle \(done): distilling" : "Distilling") \
      \(training.latents.grouped) latents, k \(training.objective.k ?? 0), in \(configuration.cycles) cycles of \
      \(training.tokens.grouped) tokens, by the loss of \(distillation.languageModel) with the \
      innermost reconstruction before block \(distillation.layer).
      """)
  }

  private static func status(_ progress: Distillation.Progress) -> String {
    let what =
      switch progress.phase {
      case .training(let training): training.text(isDrawn: false)
      case .attribution(let share): "attributing, \((100 * share).formatted(digits: 0)) %"
      }
    return "cycle \(progress.cycle)/\(progress.cycles)  \(what)  "
      + "\(progress.secondsLeft.duration) left"
  }

  private static func line(_ cycle: DistillationCycle) -> String {
    "Cycle \(cycle.number): \(cycle.selected.count.grouped) of \(cycle.candidates.grouped) latents "
      + "make up the coverage, \(cycle.kept.grouped) of them from the core of "
      + "\(cycle.coreLatents.grouped)"
      + (cycle.publishedVersion.map { "; published as version \($0)" } ?? "")
  }

  private static func table(_ cycles: [DistillationCycle]) -> TextTable {
    var table = TextTable(
      "cycle", "core", "candidates", "selected", "of the core", "for 50 %", "for 99 %", "core FVU",
      "innermost FVU", "FVU", "L0")
    for cycle in cycles {
      let hasCore = cycle.coreLatents > 0
      func fvu(_ row: DistillationCycle.Row?) -> String { row?.fvu.formatted(digits: 4) ?? "–" }
      func needed(_ coverage: Double) -> String {
        zip(DistillationCycle.coverages, cycle.latentsForCoverage)
          .first { $0.0 == coverage }.map { $0.1.grouped } ?? "–"
      }
      table.add(
        "\(cycle.number)", cycle.coreLatents.grouped, cycle.candidates.grouped,
        cycle.selected.count.grouped, cycle.kept.grouped, needed(0.5), needed(0.99),
        hasCore ? fvu(cycle.rows.first) : "–", fvu(cycle.rows.dropFirst(hasCore ? 1 : 0).first),
        fvu(cycle.rows.last), cycle.rows.last?.l0.formatted(digits: 1) ?? "–")
    }
    return table
  }
}
