import ArgumentParser
import Foundation
import GranuleBLAS
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleTensors
import GranuleThreads
import GranuleTraining

struct BenchEncodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode",
    abstract: "Measure encoding beside a dense product with a top-k.",
    discussion: """
      Encodes the same activations with Granule and with OpenBLAS: sgemm (sgemv for a batch of 1), \
      then the k largest of each row, on as many threads. The two take turns, each alone, and the \
      median counts. Both must find the same latents active, up to ties within rounding; where they \
      do not, the exit code is 1.

      The dictionary is random and the activations are either gaussian, or correlated: sparse sums \
      of its directions with noise, a mean, variance that falls by a power law and a few dimensions \
      far larger, like a language model's. Or give a dictionary and activations of your own. \
      Survivors are the latents that were scored in float32 after the screening in 8 bits, – where \
      all were; fallbacks are tokens that had to be scored in full after it.

      benchmarks/encode.py runs PyTorch beside it.

      EXAMPLE
        granule bench encode --d-model 576 --latents 16384 --k 64 --batch 1,256,1024
        granule bench encode --d-model 576 --latents 16384 --k 64 --batch 1024 \\
          --granularity 1024,4096,16384 --data correlated
        granule bench encode --dictionary runs/first --activations test.npy --json
      """)

  @Option(help: "Length of an activation, of a random dictionary.")
  var dModel: Int?
  @Option(help: "Number of latents, of a random dictionary.")
  var latents: Int?
  @Option(help: "Active latents a token at full width. Default: the dictionary's.")
  var k: Int?
  @Option(help: "Tokens a call, ascending.")
  var batch = Granularities(values: [1, 16, 256, 1024])
  @Option(help: "Granularities, ascending. Default: all latents.")
  var granularities: Granularities?
  @Option(help: "The k of smaller granularities: proportional, k · G / N but at least 1, or fixed.")
  var kAtGranularity = KAtGranularity.proportional
  @Option(help: "Activations for a random dictionary: gaussian or correlated.")
  var data = SyntheticActivations.Kind.gaussian
  @Option(help: "A TopK dictionary folder, or a finished run, instead of a random one.")
  var dictionary: String?
  @Option(help: "Its activations: a file or folder.")
  var activations: String?
  @Option(name: .customLong("repeat"), help: "Turns that each side takes.")
  var repetitions = 5
  @Option(help: "Threads of each side.")
  var threads = Parallel.threads
  @Option(help: "Of the random numbers.")
  var seed: UInt64 = 1
  @Option(help: "Write the random dictionary and its activations into this folder, which is made.")
  var save: String?
  @Flag(help: "Print JSON.")
  var json = false

  enum KAtGranularity: String, ExpressibleByArgument { case fixed, proportional }

  func validate() throws {
    if dictionary == nil {
      guard let dModel, let latents, let k else {
        throw ValidationError("give --d-model, --latents and --k, or --dictionary")
      }
      guard dModel >= 1, latents >= 1 else {
        throw ValidationError("--d-model and --latents must be at least 1")
      }
      if !(1...latents).contains(k) { throw ValidationError("--k must be in 1 … \(latents)") }
      if activations != nil {
        throw ValidationError("--activations is of no use without --dictionary")
      }
    } else {
      if dModel != nil || latents != nil {
        throw ValidationError("--dictionary says what --d-model and --latents would")
      }
      if activations == nil { throw ValidationError("--dictionary needs --activations") }
      if save != nil { throw ValidationError("--save is for random dictionaries") }
    }
    if repetitions < 1 { throw ValidationError("--repeat must be at least 1") }
    if !(1...Parallel.threads).contains(threads) {
      throw ValidationError("--threads must be in 1 … \(Parallel.threads), the cores")
    }
  }

  func run() async throws {
    if let type = ProcessInfo.processInfo.environment["OPENBLAS_CORETYPE"] {
      printError(
        "Warning: OPENBLAS_CORETYPE is \(type), which may halve the speed of sgemm. Unset it for "
          + "honest ratios.")
    }
    let (dictionary, activations) = try subject()
    let fullK = try k ?? dictionary.checkedFullK()
    let granularities = self.granularities?.values ?? [dictionary.latents]
    if let last = granularities.last, last > dictionary.latents {
      throw CommandError(
        "--granularities: \(last) is more than the dictionary's \(dictionary.latents) latents")
    }
    let benchmark = EncodeBenchmark(
      encoder: try SparseEncoder(dictionary), activations: activations, threads: threads,
      repetitions: repetitions)
    var bar = ProgressBar(isQuiet: json)
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
    if json {
      print(StrictJSON.text(.array(rows.map(\.json)), indented: true))
    } else {
      show(rows, dictionary, k: fullK)
    }
    let differing = rows.reduce(0) { $0 + $1.differingTokens }
    if differing > 0 {
      throw CommandError(
        "the active latents of \(differing) tokens differ from the baseline's by more than rounding: "
          + "please report this with the command that you ran")
    }
  }

  /// The dictionary, and activations enough for the largest batch.
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
      throw CommandError(
        "\(path) has d_model \(dataset.dModel), \(location.folder) \(loaded.dModel)")
    }
    guard dataset.tokens >= batch.values.last ?? 1 else {
      throw CommandError(
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
      "Medians of \(repetitions) turns. Ratio: sgemm's time (sgemv's for a batch of 1) with top-k to "
        + "Granule's. Survivors,\nfallbacks, ties within rounding and tokens that differ: of "
        + "\(EncodeBenchmark.checkedTokens) tokens, or of a batch where that is more.")
  }
}

extension SyntheticActivations.Kind: ExpressibleByArgument {}

extension SparseAutoencoder {
  fileprivate func checkedFullK() throws -> Int {
    guard case .topk(let k) = selectionRule else {
      throw CommandError(
        "bench encode needs a TopK dictionary, this one's selection rule is \(selectionRule.name)")
    }
    return k
  }
}

extension SyntheticActivations {
  /// Writes `dictionary/` and `activations.safetensors` into a folder, which is made.
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
