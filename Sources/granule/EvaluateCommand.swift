import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleFiles
import GranuleReports
import GranuleTraining

struct EvaluateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure how well each granularity of dictionaries stands in for activations.",
    discussion: """
      The first table shows FVU, the fraction of variance unexplained, and L0 at each granularity: \
      as-trained with the k that the dictionary was calibrated to have there, fixed-ratio with \
      k · G / N, as the progressive-coding paper evaluates. Variance is the squared distance from the \
      mean of each dimension over the evaluated tokens; beside it the table uses the mean that the \
      dictionary stores, which is what a server reports, and a single mean over tokens and dimensions. \
      RSA is the Pearson correlation of the distances between activations and of the distances \
      between reconstructions. A run is evaluated on the sequences that it held out, unless \
      --activations or --sequences are given.

      The other tables show what the latents do: the share of activation mass, E[z²] · ‖W_dec‖², of \
      each granularity; the largest cosine of each latent's decoder row with those of earlier \
      granularities, which shows feature splitting; power laws of the decoder covariance's \
      eigenvalues, of E[z²] and of frequency; and the correlation of the metrics over granularities.

      With --model and --text the command also measures the language model's mean next-token \
      cross-entropy (CE, nats) with reconstructions spliced in before the block. CE ratio is clean CE \
      / spliced CE. Loss recovered is 1 - (spliced - clean) / (mean - clean); mean is the CE with \
      every replaced activation set to their mean over this text. Position 0 of each sequence and \
      end-of-text tokens are never replaced, also not in the baselines. FVU and L0 in that table are \
      those of the replaced tokens.

      Several dictionaries are measured on the same activations and then compared: the frontier of L0 \
      and FVU at full size, and a scaling law of FVU in size N, granularity G and L0, with its R². \
      --html writes all results, with figures, to a page that needs no other file.

      EXAMPLE
        granule evaluate runs/first
        granule evaluate runs/first --model SmolLM2-135M-Instruct.Q4_1.gguf \\
          --layer 10 --text held-out/ --tokens 8192 --html first.html
        granule evaluate runs/k16 runs/k32 runs/k64 --activations test/ \\
          --html compared.html
        granule evaluate dictionary/ --activations test.npy \\
          --granularities 512,2048,8192 --json
      """)

  @Argument(
    help: ArgumentHelp(
      "Runs of `granule train`, or dictionary folders.", valueName: "dictionary"))
  var paths: [String]
  @OptionGroup var data: ActivationOptions
  @Option(
    help: ArgumentHelp(
      """
      Granularities, ascending; each of several dictionaries is measured at those that it has. \
      Default: those that the dictionary lists, or its size.
      """))
  var granularities: Granularities?
  @Option(help: "Number of tokens, evenly spaced, to measure RSA on; 0 leaves RSA out.")
  var rsaSamples = 2000
  @Option(
    help: ArgumentHelp(
      "Ranks to fit power laws to, as shares of the values above zero. Default: "
        + "\(PowerLaw.defaultMiddle.lowerBound),\(PowerLaw.defaultMiddle.upperBound).",
      valueName: "first,last"))
  var fitRange: ShareRange?
  @Flag(
    help: """
      Leave out cosines and eigenvalues of the decoder, which take minutes for the largest \
      dictionaries.
      """)
  var withoutDecoder = false
  @Option(help: "GGUF file of a language model to measure recaptured loss in.")
  var model: String?
  @Option(
    help: """
      Block of --model before which reconstructions are spliced in. Default: the one that the \
      dictionary names.
      """)
  var layer: Int?
  @Option(parsing: .upToNextOption, help: "Text files, or folders of them, for --model.")
  var text: [String] = []
  @Option(help: "Number of tokens per sequence of --text. Default: 512.")
  var context: Int?
  @Option(help: "Number of tokens of --text to use, from its beginning. Default: 8192.")
  var tokens: Int?
  @Option(help: "HTML file to write all results to, with figures.")
  var html: String?
  @OptionGroup var result: ResultOptions

  func validate() throws {
    if paths.isEmpty { throw ValidationError("name a run or a dictionary folder") }
    try require("--rsa-samples", rsaSamples, in: 0...RepresentationalSimilarity.samplesMax)
    guard model != nil else {
      for (option, isGiven) in [
        ("--layer", layer != nil), ("--text", !text.isEmpty), ("--context", context != nil),
        ("--tokens", tokens != nil),
      ] where isGiven {
        throw ValidationError("\(option) does nothing without --model: leave it out, or add that")
      }
      return
    }
    if text.isEmpty { throw ValidationError("--model needs --text") }
    try require("--tokens", tokens, atLeast: 2)
  }

  func run() async throws {
    if let html { try OutputFile.requireWritable(html, "--html") }
    let plan = try EvaluationPlan(paths, options)
    if plan.subjects.allSatisfy({ $0.dataset == nil }) { try refuseOptionsOfActivations() }
    let reader = try model.map {
      try LanguageModelText(
        model: $0, text: text, context: context ?? 512, tokens: tokens ?? 8192)
    }
    let bar = ProgressBar(isQuiet: result.json)
    let reports = try Interruption.guarding(bar) {
      try plan.subjects.enumerated().map { number, subject in
        let place = paths.count > 1 ? "[\(number + 1)/\(paths.count)] " : ""
        return try plan.report(
          subject, reader,
          onProgress: { share, work in
            bar.update(fraction: share, "\(place)\(subject.name): \(work())")
          }, shouldStop: { Interruption.isRequested })
      }
    }
    let comparison = DictionaryComparison(reports)
    let found: JSONValue =
      reports.count == 1
      ? reports[0].json
      : .object(
        [.init("dictionaries", .array(reports.map(\.json)))] + (comparison?.members ?? []))
    if let html {
      let page = EvaluationPage(
        reports: reports, comparison: comparison, json: found,
        command: (["granule"] + CommandLine.arguments.dropFirst()).joined(separator: " "))
      try DurableFile.replace(html, with: page.html)
    }
    if result.json {
      print(StrictJSON.text(found))
      return
    }
    for report in reports { show(report) }
    if let comparison { show(EvaluationTables.of(comparison)) }
    if let html { print("\nFigures and tables: \(html)") }
  }

  private var options: EvaluationPlan.Options {
    var options = EvaluationPlan.Options()
    options.activations = data.activations
    options.sequences = data.sequences?.range
    options.granularities = granularities?.values
    options.similaritySamples = rsaSamples
    options.middle = fitRange?.range ?? options.middle
    options.measuresDecoder = !withoutDecoder
    options.hasLanguageModel = model != nil
    options.layer = layer
    return options
  }

  /// - Throws: `ValidationError` naming an option that only measures on activations.
  private func refuseOptionsOfActivations() throws {
    for (option, isGiven) in [
      ("--sequences", data.sequences != nil), ("--fit-range", fitRange != nil),
    ] where isGiven {
      throw ValidationError(
        "\(option) does nothing without --activations, or a run that has some: leave it out")
    }
  }

  private func show(_ report: DictionaryReport) {
    print(
      "\(report.name)"
        + (report.layer.map { ", spliced in before block \($0)" } ?? "")
        + (report.activationPaths.isEmpty
          ? "" : ", activations \(Self.summary(of: report.activationPaths))")
        + report.trainingNote + "\n")
    show(EvaluationTables.of(report))
  }

  /// The paths, or their folder if there are several in one.
  private static func summary(of paths: [String]) -> String {
    let folders = Set(paths.map { URL(filePath: $0).deletingLastPathComponent().path })
    guard paths.count > 1, let folder = folders.first, folders.count == 1 else {
      return paths.joined(separator: ", ")
    }
    return "\(folder) (\(paths.count) files)"
  }

  private func show(_ sections: [HTMLPage.Section]) {
    for section in sections {
      print("\(section.title)\n\n\(section.table.text)\(section.note)\n")
    }
  }
}
