import ArgumentParser
import Foundation
import GranuleBLAS
import GranuleCommandLine
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleReports
import GranuleTensors
import GranuleThreads
import GranuleTraining

struct EncodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode",
    abstract: "Measure encoding beside a dense product with a top-k.",
    discussion: """
      The same activations are encoded with Granule and with OpenBLAS: sgemm (sgemv for a batch of 1), \
      then the k largest of each row, on as many threads. The two take turns, each alone, and the \
      median counts. Both must find the same active latents, up to ties within rounding; otherwise the \
      exit code is 1.

      The dictionary is random. Its activations are either gaussian, or correlated: sparse sums of its \
      directions with noise, a mean, a variance that falls by a power law and a few dimensions that are \
      far larger, like a language model's. --dictionary and --activations measure your own. Survivors \
      are the latents that were scored in float32 after the screening in 8 bits, – if all were; \
      fallbacks are tokens that had to be scored in full after it.

      benchmarks/encode.py runs PyTorch beside it.

      EXAMPLE
        granule-bench encode --d-model 576 --latents 16384 --k 64 --batch 1,256,1024
        granule-bench encode --d-model 576 --latents 16384 --k 64 --batch 1024 \\
          --granularities 1024,4096,16384 --data correlated
        granule-bench encode --dictionary runs/first --activations test.npy --json
      """)

  @Option(help: "Length of an activation of the random dictionary.")
  var dModel: Int?
  @Option(help: "Number of latents of the random dictionary.")
  var latents: Int?
  @Option(help: "Number of active latents per token at full size. Default: the dictionary's own.")
  var k: Int?
  @Option(help: "Numbers of tokens per call, ascending.")
  var batch = Granularities(values: [1, 16, 256, 1024])
  @Option(help: "Granularities, ascending. Default: all latents.")
  var granularities: Granularities?
  @Option(
    help: "The k of smaller granularities: proportional (k · G / N, at least 1) or fixed.")
  var kAtGranularity = KAtGranularity.proportional
  @Option(help: "Activations of the random dictionary: gaussian or correlated.")
  var data = SyntheticActivations.Kind.gaussian
  @Option(help: "TopK dictionary folder, or finished run, to measure instead of a random one.")
  var dictionary: String?
  @Option(help: "File or folder of activations for --dictionary.")
  var activations: String?
  @Option(name: .customLong("repeat"), help: "Number of turns that each side takes.")
  var repetitions = 5
  @Option(help: "Number of threads on each side.")
  var threads = Parallel.threads
  @Option(help: "Seed of the random number generator.")
  var seed: UInt64 = 1
  @Option(help: "Folder to write the random dictionary and its activations to.")
  var save: String?
  @OptionGroup var result: ResultOptions

  enum KAtGranularity: String, ExpressibleByArgument { case fixed, proportional }

  func validate() throws {
    if dictionary == nil {
      guard let dModel, let latents, let k else {
        throw ValidationError("name either --d-model, --latents and --k, or --dictionary")
      }
      try require("--d-model", dModel, atLeast: 1)
      try require("--latents", latents, atLeast: 1)
      try require("--k", k, in: 1...latents)
      if activations != nil {
        throw ValidationError("--activations does nothing without --dictionary: leave it out")
      }
    } else {
      if dModel != nil || latents != nil {
        throw ValidationError("--dictionary has its own --d-model and --latents: leave them out")
      }
      if activations == nil { throw ValidationError("--dictionary needs --activations") }
      if save != nil { throw ValidationError("--save is for random dictionaries") }
    }
    try require("--repeat", repetitions, atLeast: 1)
    try require("--threads", threads, in: 1...Parallel.threads)
  }

  func run() async throws {
    if let type = ProcessInfo.processInfo.environment["OPENBLAS_CORETYPE"] {
      printError(
        "Warning: OPENBLAS_CORETYPE is \(type), which may halve the speed of sgemm: unset it for "
          + "correct ratios.")
    }
    let (dictionary, activations) = try subject()
    let fullK = try k ?? dictionary.checkedFullK()
    let granularities = self.granularities?.values ?? [dictionary.latents]
    if let last = granularities.last, last > dictionary.latents {
      throw CommandError.input(
        "--granularities: \(last) is more than the dictionary's \(dictionary.latents) latents")
    }
    let benchmark = EncodeBenchmark(
      encoder: try SparseEncoder(dictionary), activations: activations, threads: threads,
      repetitions: repetitions)
    let bar = ProgressBar(isQuiet: result.json)
    var rows: [EncodeBenchmark.Row] = []
    let count = batch.values.count * granularities.count
    for tokens in batch.values {
      for granularity in granularities {
        bar.update(
          fraction: Double(rows.count) / Double(count),
          "batch \(tokens), granularity \(granularity)")
        rows.append(
          try benchmark.measure(
            batch: tokens, granularity: granularity,
            k: k(at: granularity, fullK: fullK, latents: dictionary.latents)))
      }
    }
    bar.finish()
    if result.json {
      print(StrictJSON.text(.array(rows.map(\.json)), indented: true))
    } else {
      show(rows, dictionary, k: fullK)
    }
    let differing = rows.reduce(0) { $0 + $1.differingTokens }
    if differing > 0 {
      throw CommandError.failedCheck(
        "the active latents of \(differing) tokens differ from the baseline's by more than rounding: "
          + "please report this with the command that you ran")
    }
  }

  /// The dictionary, with enough activations for the largest batch.
  private func subject() throws -> (SparseAutoencoder, FloatStorage) {
    let tokens = max(batch.values.last ?? 1, EncodeBenchmark.checkedTokens)
    guard let folder = dictionary, let path = activations else {
      let synthetic = SyntheticActivations(
        kind: data, dModel: dModel ?? 1, latents: latents ?? 1, k: k ?? 1, tokens: tokens,
        seed: seed)
      if let save { try synthetic.write(to: save) }
      return (synthetic.dictionary, synthetic.activations)
    }
    let location = try DictionaryLocation(folder)
    let loaded = try SparseAutoencoder(folder: location.folder)
    let dataset = try ActivationDataset(paths: [path])
    guard dataset.dModel == loaded.dModel else {
      throw CommandError.input(
        "\(path) has d_model \(dataset.dModel), but \(location.folder) has \(loaded.dModel)")
    }
    guard dataset.tokens >= batch.values.last ?? 1 else {
      throw CommandError.input(
        "\(path) has \(dataset.tokens) tokens, --batch asks for \(batch.values.last ?? 1)")
    }
    let count = min(tokens, dataset.tokens)
    let rows = FloatStorage(count: count * dataset.dModel)
    dataset.copyTokens(0..<count, into: rows.pointer)
    return (loaded, rows)
  }

  private func k(at granularity: Int, fullK: Int, latents: Int) -> Int {
    switch kAtGranularity {
    case .fixed: min(fullK, granularity)
    case .proportional:
      max(1, Int((Double(fullK) * Double(granularity) / Double(latents)).rounded()))
    }
  }

  private func show(_ rows: [EncodeBenchmark.Row], _ dictionary: SparseAutoencoder, k: Int) {
    let source = self.dictionary ?? "random, \(data.rawValue) activations"
    print(
      "d_model \(dictionary.dModel), \(dictionary.latents.grouped) latents, k \(k) (\(source)); "
        + "\(threads) threads, OpenBLAS for \(BLAS.coreName)\n")
    var table = TextTable(
      "batch", "granularity", "k", "ms", "µs/token", "sgemm ms", "ratio", "survivors/token",
      "fallbacks", "ties", "differ")
    for row in rows {
      table.add(
        row.batch.grouped, row.granularity.grouped, "\(row.k)",
        row.milliseconds.formatted(digits: 3),
        (row.milliseconds * 1000 / Double(row.batch)).formatted(digits: 2),
        row.denseMilliseconds.formatted(digits: 3), row.speedup.formatted(digits: 2),
        row.survivorsPerToken?.formatted(digits: 1) ?? "–", "\(row.fallbacks)",
        "\(row.tiedTokens)", "\(row.differingTokens)")
    }
    print(table.text)
    print(
      "Medians of \(repetitions) turns. Ratio: time of sgemm (sgemv for a batch of 1) with top-k, divided "
        + "by Granule's.\nSurvivors, fallbacks, ties within rounding and tokens that differ are counted "
        + "over \(EncodeBenchmark.checkedTokens) tokens,\nor over one batch if that is more.")
  }
}

extension SyntheticActivations.Kind: ExpressibleByArgument {}

extension SparseAutoencoder {
  fileprivate func checkedFullK() throws -> Int {
    guard case .topk(let k) = selectionRule else {
      throw CommandError.input(
        "only a TopK dictionary can be measured, but this one's selection rule is "
          + selectionRule.name)
    }
    return k
  }
}

extension SyntheticActivations {
  /// Writes `dictionary/` and `activations.safetensors` into a folder, and makes it if needed.
  func write(to folder: String) throws {
    try Folder.make("\(folder)/dictionary")
    try dictionary.write(to: "\(folder)/dictionary")
    let dModel = dictionary.dModel
    try SafetensorsWriter.write(
      [.init("activations", [activations.count / dModel, dModel], activations)],
      to: "\(folder)/activations.safetensors")
  }
}

extension EncodeBenchmark.Row {
  fileprivate var json: JSONValue {
    [
      "batch": JSONValue(batch), "granularity": JSONValue(granularity), "k": JSONValue(k),
      "ms": JSONValue(milliseconds), "sgemm_ms": JSONValue(denseMilliseconds),
      "speedup_sgemm": JSONValue(speedup),
      "survivors_per_token": survivorsPerToken.map { JSONValue($0) } ?? .null,
      "fallbacks": JSONValue(fallbacks), "tokens_checked": JSONValue(checkedTokens),
      "tokens_at_ties": JSONValue(tiedTokens), "tokens_that_differ": JSONValue(differingTokens),
      "value_sum": JSONValue(valueSum),
    ]
  }
}
