import ArgumentParser
import Foundation
import LanguageModel
import SparseAutoencoder
import StrictJSON
import Training

struct EvaluateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure how well each granularity of a dictionary stands in for activations.",
    discussion: """
      Prints FVU, the fraction of variance unexplained, and L0 at each granularity: with the k that \
      the dictionary was calibrated to have there (as-trained) and with k · G / N (fixed-ratio, as \
      the progressive-coding paper evaluates). Variance is squared distance from the mean of each \
      dimension over the evaluated tokens; beside it from the mean that the dictionary stores, which \
      is what a server reports, and from a single mean over tokens and dimensions. A run is \
      evaluated on the sequences that it held out, unless --activations are given.

      With --model, --layer and --text also the language model's mean next-token cross-entropy (CE, \
      nats) with reconstructions spliced in before the block. CE ratio is clean CE / spliced CE. \
      Loss recovered is 1 - (spliced - clean) / (mean - clean), where mean is the CE with every \
      replaced activation set to their mean over this text. Position 0 of each sequence and \
      end-of-text tokens are never replaced, in the baselines neither. FVU and L0 there are those of \
      the replaced tokens.

      EXAMPLE
        granule evaluate runs/first
        granule evaluate runs/first --model SmolLM2-135M-Instruct.Q4_1.gguf --layer 10 \\
          --text held-out/ --tokens 8192
        granule evaluate dictionary/ --activations test.npy --granularities 512,2048,8192 --json
      """)

  @Argument(help: "A run of `granule train`, or a dictionary folder.")
  var path: String
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 36-39.")
  var sequences: SequenceRange?
  @Option(help: "Granularities, ascending. Default: those that the dictionary lists.")
  var granularities: Granularities?
  @Option(help: "A language model, a GGUF file, to measure recaptured loss in.")
  var model: String?
  @Option(help: "The block of --model before which reconstructions are spliced in.")
  var layer: Int?
  @Option(parsing: .upToNextOption, help: "Text files, or folders of them, for --model.")
  var text: [String] = []
  @Option(help: "Tokens a sequence of --text.")
  var context = 512
  @Option(help: "Tokens of --text to use, from its beginning.")
  var tokens = 8192
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func validate() throws {
    guard model != nil else {
      if layer != nil { throw ValidationError("--layer is of no use without --model") }
      if !text.isEmpty { throw ValidationError("--text is of no use without --model") }
      return
    }
    if layer == nil { throw ValidationError("--model needs --layer") }
    if text.isEmpty { throw ValidationError("--model needs --text") }
    if tokens < 2 { throw ValidationError("--tokens must be at least 2") }
  }

  func run() async throws {
    Interruption.install()
    let location = try DictionaryLocation(path)
    let dictionary = try SparseAutoencoder(folder: location.folder)
    // A dictionary folder has no activations of its own; with a model, text is enough.
    let dataset =
      model != nil && activations.isEmpty && !location.isRun
      ? nil : try location.activations(paths: activations, sequences: sequences?.range)
    var bar = ProgressBar(isQuiet: json)
    let evaluation: Evaluation?
    let recaptured: RecapturedLoss?
    do {
      evaluation = try dataset.map { dataset in
        try Evaluation(
          dictionary, on: dataset, granularities: granularities?.values,
          onProgress: { done in
            bar.update(fraction: done, "\(Int(done * Double(dataset.tokens)).grouped) tokens")
          }, shouldStop: { Interruption.isRequested })
      }
      bar.finish()
      recaptured = try recapturedLoss(dictionary, &bar)
    } catch is CancellationError {
      bar.finish()
      throw ExitCode(Interruption.exitCode)
    }
    bar.finish()
    if json {
      var members: [JSONValue.Member] = []
      if let evaluation { members += Self.json(evaluation) }
      if let recaptured { members.append(.init("recaptured", Self.json(recaptured))) }
      print(StrictJSON.text(.object(members)))
      return
    }
    if let evaluation, let dataset { show(evaluation, dataset, location, dictionary) }
    if evaluation != nil, recaptured != nil { print() }
    if let recaptured { show(recaptured, location) }
  }

  private func recapturedLoss(
    _ dictionary: SparseAutoencoder, _ bar: inout ProgressBar
  ) throws -> RecapturedLoss? {
    guard let model, let layer else { return nil }
    let file = try GGUFFile(path: model)
    let tokenizer = try Tokenizer(file)
    let sequences = try TextSequences.read(
      text, tokenizer: tokenizer, context: context, tokens: tokens)
    return try RecapturedLoss(
      dictionary, in: LanguageModel(LlamaWeights(file)), before: layer, sequences: sequences,
      endTokens: tokenizer.endTokens, granularities: granularities?.values,
      onProgress: { done in bar.update(fraction: done, "recaptured loss") },
      shouldStop: { Interruption.isRequested })
  }

  private static func json(_ evaluation: Evaluation) -> [JSONValue.Member] {
    let rows = evaluation.rows.map { row in
      JSONValue.object([
        .init("granularity", JSONValue(row.granularity)),
        .init("sparsity", .string(row.sparsity.rawValue)), .init("k", JSONValue(row.k)),
        .init("l0", JSONValue(row.l0)), .init("fvu", JSONValue(row.fvu)),
        .init("fvu_stored_mean", row.fvuStoredMean.map { JSONValue($0) } ?? .null),
        .init("fvu_scalar_mean", JSONValue(row.fvuScalarMean)),
      ])
    }
    return [
      .init("tokens", JSONValue(evaluation.tokens)),
      .init("rows", .array(rows)),
    ]
  }

  private static func json(_ recaptured: RecapturedLoss) -> JSONValue {
    let rows = recaptured.rows.map { row in
      JSONValue.object([
        .init("granularity", JSONValue(row.granularity)),
        .init("sparsity", .string(row.sparsity.rawValue)), .init("k", JSONValue(row.k)),
        .init("l0", JSONValue(row.l0)), .init("fvu", JSONValue(row.fvu)),
        .init("cross_entropy", JSONValue(row.crossEntropy)),
        .init("cross_entropy_ratio", JSONValue(row.ratio)),
        .init("loss_recovered_against_mean", JSONValue(row.recovered)),
      ])
    }
    return .object([
      .init("predicted_tokens", JSONValue(recaptured.predictedTokens)),
      .init("replaced_tokens", JSONValue(recaptured.replacedTokens)),
      .init("cross_entropy_clean", JSONValue(recaptured.clean)),
      .init("cross_entropy_mean", JSONValue(recaptured.meanBaseline)),
      .init("cross_entropy_zero", JSONValue(recaptured.zeroBaseline)), .init("rows", .array(rows)),
    ])
  }

  private func show(
    _ evaluation: Evaluation, _ dataset: ActivationDataset, _ location: DictionaryLocation,
    _ dictionary: SparseAutoencoder
  ) {
    print(
      "\(location.folder) on \(evaluation.tokens.grouped) tokens of "
        + "\(dataset.paths.joined(separator: ", "))\n")
    var table = TextTable("granularity", "sparsity", "k", "L0", "FVU", "stored mean", "scalar mean")
    for row in evaluation.rows {
      table.add(
        row.granularity.grouped, row.sparsity.rawValue, row.k > 0 ? "\(row.k)" : "–",
        row.l0.formatted(digits: 1), row.fvu.formatted(digits: 4),
        row.fvuStoredMean?.formatted(digits: 4) ?? "–",
        row.fvuScalarMean.formatted(digits: 4))
    }
    print(table.text)
  }

  private func show(_ recaptured: RecapturedLoss, _ location: DictionaryLocation) {
    let layer = layer.map { " before block \($0)" } ?? ""
    print(
      "\(location.folder) spliced in\(layer): \(recaptured.replacedTokens.grouped) tokens replaced, "
        + "\(recaptured.predictedTokens.grouped) predicted\n")
    var table = TextTable(
      "granularity", "sparsity", "k", "L0", "FVU", "CE", "CE ratio", "loss recovered")
    func baseline(_ name: String, _ crossEntropy: Double) {
      table.add(
        "–", name, "–", "–", "–", crossEntropy.formatted(digits: 4),
        (recaptured.clean / crossEntropy).formatted(digits: 4), "–")
    }
    baseline("clean", recaptured.clean)
    for row in recaptured.rows {
      table.add(
        row.granularity.grouped, row.sparsity.rawValue, row.k > 0 ? "\(row.k)" : "–",
        row.l0.formatted(digits: 1), row.fvu.formatted(digits: 4),
        row.crossEntropy.formatted(digits: 4), row.ratio.formatted(digits: 4),
        row.recovered.formatted(digits: 4))
    }
    baseline("mean", recaptured.meanBaseline)
    baseline("zero", recaptured.zeroBaseline)
    print(table.text)
    print(
      "CE ratio: against clean. Loss recovered: between mean (0) and clean (1). Position 0 and "
        + "end-of-text tokens pass through untouched everywhere.")
  }
}
