import ArgumentParser
import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import GranuleTraining

struct EvaluateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure how well each granularity of dictionaries stands in for activations.",
    discussion: """
      Prints FVU, the fraction of variance unexplained, and L0 at each granularity: with the k that \
      the dictionary was calibrated to have there (as-trained) and with k · G / N (fixed-ratio, as \
      the progressive-coding paper evaluates). Variance is squared distance from the mean of each \
      dimension over the evaluated tokens; beside it from the mean that the dictionary stores, which \
      is what a server reports, and from a single mean over tokens and dimensions. RSA is the Pearson \
      correlation of the distances between activations and of those between reconstructions. A run \
      is evaluated on the sequences that it held out, unless --activations or --sequences are given.

      Then what the latents do: the share of activation mass, E[z²] · ‖W_dec‖², that each granularity \
      has; the largest cosine of each latent's decoder row with those of earlier granularities, which \
      shows feature splitting; power laws of the decoder covariance's eigenvalues, of E[z²] and of \
      frequency; and how the metrics correlate over granularities.

      With --model and --text also the language model's mean next-token cross-entropy (CE, nats) \
      with reconstructions spliced in before the block. CE ratio is clean CE / spliced CE. Loss \
      recovered is 1 - (spliced - clean) / (mean - clean), where mean is the CE with every replaced \
      activation set to their mean over this text. Position 0 of each sequence and end-of-text \
      tokens are never replaced, in the baselines neither. FVU and L0 there are those of the \
      replaced tokens.

      Several dictionaries are measured on the same activations, then compared: the frontier of L0 \
      and FVU at full size, and a scaling law of FVU in size N, granularity G and L0, with its R². \
      --html writes all of it, with figures, to a page that needs no other file.

      EXAMPLE
        granule evaluate runs/first
        granule evaluate runs/first --model SmolLM2-135M-Instruct.Q4_1.gguf --layer 10 \\
          --text held-out/ --tokens 8192 --html first.html
        granule evaluate runs/k16 runs/k32 runs/k64 --activations test/ --html compared.html
        granule evaluate dictionary/ --activations test.npy --granularities 512,2048,8192 --json
      """)

  @Argument(
    help: ArgumentHelp(
      "Runs of `granule train`, or dictionary folders.", valueName: "dictionary"))
  var paths: [String]
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 36-39.")
  var sequences: SequenceRange?
  @Option(
    help: ArgumentHelp(
      """
      Granularities, ascending. Default: those that the dictionary lists, or its size. Of several \
      dictionaries, each is measured at those that it has.
      """))
  var granularities: Granularities?
  @Option(help: "Tokens, at even distances, to measure RSA on; 0 leaves it out.")
  var rsaSamples = 2000
  @Option(
    help: ArgumentHelp(
      "The ranks to which power laws are fitted, as shares of the values above zero. Default: "
        + "\(PowerLaw.defaultMiddle.lowerBound),\(PowerLaw.defaultMiddle.upperBound).",
      valueName: "first,last"))
  var fitRange: FitRange?
  @Flag(
    help: """
      Leave out cosines and eigenvalues of the decoder, which take minutes for the largest \
      dictionaries.
      """)
  var withoutDecoder = false
  @Option(help: "A language model, a GGUF file, to measure recaptured loss in.")
  var model: String?
  @Option(
    help: """
      The block of --model before which reconstructions are spliced in. Default: the one that the \
      dictionary says.
      """)
  var layer: Int?
  @Option(parsing: .upToNextOption, help: "Text files, or folders of them, for --model.")
  var text: [String] = []
  @Option(help: "Tokens a sequence of --text. Default: 512.")
  var context: Int?
  @Option(help: "Tokens of --text to use, from its beginning. Default: 8192.")
  var tokens: Int?
  @Option(help: "Write everything, with figures, to this HTML file.")
  var html: String?
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func validate() throws {
    if paths.isEmpty { throw ValidationError("name a run or a dictionary folder") }
    guard (0...RepresentationalSimilarity.samplesMax).contains(rsaSamples) else {
      throw ValidationError(
        "--rsa-samples is \(rsaSamples), it must be in 0 … \(RepresentationalSimilarity.samplesMax): "
          + "time grows with its square")
    }
    guard model != nil else {
      for (option, isGiven) in [
        ("--layer", layer != nil), ("--text", !text.isEmpty), ("--context", context != nil),
        ("--tokens", tokens != nil),
      ] where isGiven {
        throw ValidationError("\(option) is of no use without --model")
      }
      return
    }
    if text.isEmpty { throw ValidationError("--model needs --text") }
    if let tokens, tokens < 2 { throw ValidationError("--tokens must be at least 2") }
  }

  func run() async throws {
    Interruption.install()
    if let html { try OutputFile.requireWritable(html, "--html") }
    let subjects = try subjects()
    let reader = try model.map { try LanguageModelText($0, self) }
    var bar = ProgressBar(isQuiet: json)
    var reports: [DictionaryReport] = []
    do {
      for (number, subject) in subjects.enumerated() {
        let place = subjects.count > 1 ? "[\(number + 1)/\(subjects.count)] " : ""
        reports.append(try report(subject, reader, place: place, &bar))
      }
    } catch is CancellationError {
      bar.finish()
      throw ExitCode(Interruption.exitCode)
    }
    bar.finish()

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
    if json {
      print(StrictJSON.text(found))
      return
    }
    for report in reports { show(report) }
    if let comparison { Self.show(EvaluationTables.of(comparison)) }
    if let html { print("\nFigures and tables: \(html)") }
  }

  /// A dictionary to evaluate.
  private struct Subject {
    var name: String
    var folder: String
    /// nil where only recaptured loss is to be measured.
    var dataset: ActivationDataset?
    var granularities: [Int]
    /// Whether it was trained on any of the dataset; nil where that is not known.
    var isOfTraining: Bool?
    /// The block before which it is spliced in, where there is a language model.
    var layer: Int
  }

  /// Opens everything that can be wrong before anything is measured.
  private func subjects() throws -> [Subject] {
    let locations = try paths.map { try DictionaryLocation($0) }
    let names = DictionaryLocation.shortNames(paths)
    var subjects: [Subject] = []
    for (name, location) in zip(names, locations) {
      // A dictionary folder has no activations of its own; with a model, text is enough.
      let dataset =
        model != nil && activations.isEmpty && !location.isRun
        ? nil : try location.activations(paths: activations, sequences: sequences?.range)
      if let other = subjects.first(where: { $0.dataset != nil }), let dataset,
        other.dataset?.isSame(as: dataset) == false
      {
        throw CommandError(
          "\(other.folder) and \(location.folder) held out different activations: name some "
            + "with --activations, so that both are measured on the same")
      }
      let dictionary = try SparseAutoencoder(folder: location.folder)
      if let dataset, dataset.dModel != dictionary.dModel {
        throw CommandError(
          "\(location.folder) has d_model \(dictionary.dModel), the activations have "
            + "\(dataset.dModel)")
      }
      let listed = dictionary.granularities.map(\.latents)
      var wanted = granularities?.values ?? (listed.isEmpty ? [dictionary.latents] : listed)
      if paths.count > 1 { wanted.removeAll { $0 > dictionary.latents } }
      guard let largest = wanted.last, largest <= dictionary.latents else {
        throw CommandError(
          "--granularities: \(location.folder) has \(dictionary.latents) latents, name some of "
            + "1 … \(dictionary.latents)")
      }
      subjects.append(
        Subject(
          name: name, folder: location.folder, dataset: dataset, granularities: wanted,
          isOfTraining: dataset.flatMap { location.wasTrained(on: $0) },
          layer: model == nil ? 0 : try layer(of: dictionary, location.folder)))
    }
    if subjects.allSatisfy({ $0.dataset == nil }) { try refuseOptionsOfActivations() }
    return subjects
  }

  /// - Throws: `ValidationError` naming what only serves to measure on activations.
  private func refuseOptionsOfActivations() throws {
    for (option, isGiven) in [
      ("--sequences", sequences != nil), ("--fit-range", fitRange != nil),
    ] where isGiven {
      throw ValidationError("\(option) is of no use without --activations, or a run that has some")
    }
  }

  private func layer(of dictionary: SparseAutoencoder, _ folder: String) throws -> Int {
    if let layer { return layer }
    if case .block(let layer, .residual) = dictionary.provenance.hook { return layer }
    throw CommandError(
      "\(folder) does not say that it is of the residual stream before a block: name the block with "
        + "--layer")
  }

  /// A language model and its text, read once.
  private struct LanguageModelText {
    let model: LanguageModel
    let sequences: [[Int32]]
    let endTokens: Set<Int32>

    init(_ path: String, _ command: EvaluateCommand) throws {
      let file = try GGUFFile(path: path)
      let tokenizer = try Tokenizer(file)
      sequences = try TextSequences.read(
        command.text, tokenizer: tokenizer, context: command.context ?? 512,
        tokens: command.tokens ?? 8192)
      endTokens = tokenizer.endTokens
      model = LanguageModel(try LlamaWeights(file))
    }
  }

  private func report(
    _ subject: Subject, _ reader: LanguageModelText?, place: String, _ bar: inout ProgressBar
  ) throws -> DictionaryReport {
    let dictionary = try SparseAutoencoder(folder: subject.folder)
    var report = DictionaryReport(
      dictionary, name: subject.name, granularities: subject.granularities)
    let title = "\(place)\(subject.name): "
    let shouldStop = { Interruption.isRequested }
    if let dataset = subject.dataset {
      report.activationPaths = dataset.paths
      report.isOfTraining = subject.isOfTraining
      let evaluation = try Evaluation(
        dictionary, on: dataset, granularities: subject.granularities,
        similaritySamples: rsaSamples,
        onProgress: { bar.update(fraction: $0, "\(title)\(dataset.tokens.grouped) tokens") },
        shouldStop: shouldStop)
      report.evaluation = evaluation
      report.mass = ActivationMass(
        evaluation.latentStatistics, granularities: subject.granularities)
    }
    if let reader {
      report.layer = subject.layer
      report.recaptured = try RecapturedLoss(
        dictionary, in: reader.model, before: subject.layer, sequences: reader.sequences,
        endTokens: reader.endTokens, granularities: subject.granularities,
        onProgress: { bar.update(fraction: $0, title + "recaptured loss") }, shouldStop: shouldStop)
    }
    if let evaluation = report.evaluation {
      report.correlations = evaluation.sparsities.compactMap {
        MetricCorrelations(evaluation, report.recaptured, sparsity: $0)
      }
      if !withoutDecoder {
        report.decoder = try DecoderSimilarity(
          dictionary, granularities: subject.granularities,
          onProgress: { bar.update(fraction: $0, title + "decoder cosines") },
          shouldStop: shouldStop)
      }
      report.ranked = try ranked(dictionary, evaluation.latentStatistics)
    }
    return report
  }

  private func ranked(
    _ dictionary: SparseAutoencoder, _ statistics: LatentStatistics
  ) throws -> [DictionaryReport.RankedValues] {
    let middle = fitRange?.range ?? PowerLaw.defaultMiddle
    var ranked = [
      DictionaryReport.RankedValues(
        name: "mean squared activation", key: "mean_squared_activation",
        statistics.meanSquaredActivations, middle: middle),
      DictionaryReport.RankedValues(
        name: "frequency of activation", key: "frequency", statistics.frequencies,
        middle: middle),
    ]
    if !withoutDecoder {
      let eigenvalues = try DecoderSpectrum.covarianceEigenvalues(dictionary)
      ranked.insert(
        DictionaryReport.RankedValues(
          name: "eigenvalues of the decoder's covariance", key: "decoder_covariance_eigenvalues",
          eigenvalues, middle: middle), at: 0)
    }
    return ranked
  }

  private func show(_ report: DictionaryReport) {
    print(
      "\(report.name)"
        + (report.layer.map { ", spliced in before block \($0)" } ?? "")
        + (report.activationPaths.isEmpty
          ? "" : ", activations \(Self.summary(of: report.activationPaths))")
        + report.trainingNote + "\n")
    Self.show(EvaluationTables.of(report))
  }

  /// The folder that several files are in stands for them.
  private static func summary(of paths: [String]) -> String {
    let folders = Set(paths.map { URL(filePath: $0).deletingLastPathComponent().path })
    guard paths.count > 1, let folder = folders.first, folders.count == 1 else {
      return paths.joined(separator: ", ")
    }
    return "\(folder) (\(paths.count) files)"
  }

  private static func show(_ entries: [EvaluationTables.Entry]) {
    for entry in entries {
      print("\(entry.title)\n\n\(entry.table.text)\(entry.note)\n")
    }
  }
}

/// Shares of ranks on the command line: `0.01,0.5`.
struct FitRange: ExpressibleByArgument {
  let range: ClosedRange<Double>

  init?(argument: String) {
    let ends = argument.split(separator: ",", omittingEmptySubsequences: false).map { Double($0) }
    guard ends.count == 2, let first = ends[0], let last = ends[1], 0 <= first, first < last,
      last <= 1
    else { return nil }
    range = first...last
  }
}
