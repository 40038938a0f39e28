import ArgumentParser
import Foundation
import GranuleClient
import GranuleFiles
import GranuleTensors
import GranuleTraining
import GranuleWire

/// `granule encode`: codes of activations from a server, and what each granularity costs.
struct EncodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode",
    abstract: "Encode activations with a server, at one granularity or several, or up to a target.",
    discussion: """
      Prints for each granularity: FVU, mean active latents (L0), tokens a second, and where the time of a token \
      goes: in the server's workers (compute) or between (wire: sending, receiving, packing). Relative times are to \
      the largest granularity. Of several repetitions the fastest counts.

      With --refine each request goes through the granularities by itself, and the server sends only what changes \
      from one to the next; with --target-fvu it ends at the first that explains enough. Compute is then from a \
      request's first granularity on, and the codes written are the last of each request.

      EXAMPLE
        granule encode --server 127.0.0.1:7700 --model smollm2 --activations test.npy \\
          --granularities 512,2048,8192 --out codes.safetensors
        granule encode --server 127.0.0.1:7700 --model smollm2 --activations test.npy \\
          --granularities 512,2048,8192 --target-fvu 0.15 --out codes.safetensors
      """)

  @OptionGroup var connection: ConnectionOptions
  @Option(help: "The model's name.")
  var model: String
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Instead of --activations: what this run of `granule train` held out.")
  var heldOutOf: String?
  @Option(help: "Granularities, ascending. Default: the largest that is resident.")
  var granularities: Granularities?
  @Option(help: "Active latents a token, at each granularity. Default: the dictionary's own.")
  var k: UInt32?
  @Flag(help: "Let each request go through the granularities, sending changes only.")
  var refine = false
  @Option(
    name: .customLong("target-fvu"),
    help: "As --refine, and end a request once its FVU is at most this.")
  var targetFVU: Float?
  @Option(help: "Tokens a request.")
  var batch = 256
  @Option(help: "Requests in flight at once.")
  var inFlight = 4
  @Option(help: "Use only these sequences, such as 36-39.")
  var sequences: SequenceRange?
  @Option(
    name: .customLong("repeat"), help: "Times to encode everything, for steadier measurements.")
  var repetitions = 1
  @Option(help: "Write the codes of the largest granularity to this safetensors file.")
  var out: String?
  @Option(help: "Draw fidelity and cost against granularity into this SVG file.")
  var plot: String?
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func validate() throws {
    guard activations.isEmpty != (heldOutOf == nil) else {
      throw ValidationError("one of --activations and --held-out-of is needed")
    }
    guard (1...1 << 20).contains(batch) else {
      throw ValidationError("--batch: is \(batch); it must be 1 to 1048576 tokens")
    }
    guard (1...1024).contains(inFlight) else {
      throw ValidationError("--in-flight: is \(inFlight); it must be 1 to 1024 requests")
    }
    guard (1...1_000_000).contains(repetitions) else {
      throw ValidationError("--repeat: is \(repetitions); it must be at least 1")
    }
    guard k != 0 else { throw ValidationError("--k: is 0; it must be at least 1") }
    if let targetFVU, !(targetFVU > 0 && targetFVU.isFinite) {
      throw ValidationError("--target-fvu: is \(targetFVU); it must be above 0")
    }
    if refine || targetFVU != nil {
      guard granularities != nil else {
        throw ValidationError("--granularities: is needed with --refine and --target-fvu")
      }
      guard repetitions == 1, plot == nil else {
        throw ValidationError("--repeat and --plot do not go with --refine and --target-fvu")
      }
    }
    guard granularities?.values.last ?? 0 <= UInt32.max else {
      throw ValidationError("--granularities: must be below 2^32")
    }
  }

  func run() async throws {
    let dataset = try dataset()
    if let out { try OutputFile.requireWritable(out, "--out") }
    if let plot { try OutputFile.requireWritable(plot, "--plot") }
    let client = try await connection.connect()
    let run = EncodeRun(
      client: client, model: model, dataset: dataset, k: k ?? 0,
      batch: try await fittingBatch(client), inFlight: inFlight)
    if refine || targetFVU != nil { return try await refine(run) }
    let wanted = granularities?.values ?? [0]
    var bar = ProgressBar(isQuiet: json)
    var rows: [EncodeRun.Result] = []
    var answeredBy: [UInt64: Int] = [:]
    let steps = wanted.count * repetitions
    for (place, granularity) in wanted.enumerated() {
      // Out of the measurement: the first request finds caches cold.
      _ = try await run.encode(UInt32(granularity), isWarmUp: true) { _ in }
      var best: EncodeRun.Result?
      for repetition in 0..<repetitions {
        let step = place * repetitions + repetition
        let result = try await run.encode(UInt32(granularity), isWarmUp: false) { done in
          bar.update(
            fraction: (Double(step) + done) / Double(steps),
            granularity > 0 ? "granularity \(granularity.grouped)" : "full size")
        }
        answeredBy.merge(result.answeredBy) { $0 + $1 }
        if result.seconds < best?.seconds ?? .infinity { best = result }
      }
      if let best { rows.append(best) }
    }
    bar.finish()
    if let out, let last = rows.last {
      try await write(last.codes, madeBy: Array(last.answeredBy.keys), client, to: out)
    }
    show(rows, tokens: dataset.tokens)
    if !json { showVersions(answeredBy) }
    if let plot { try draw(rows, tokens: dataset.tokens, to: plot) }
  }

  private func refine(_ run: EncodeRun) async throws {
    var bar = ProgressBar(isQuiet: json)
    let result = try await RefineRun(
      run: run, granularities: granularities?.values.map { UInt32($0) } ?? [],
      targetFVU: targetFVU ?? 0
    ).refine { bar.update(fraction: $0, "refining") }
    bar.finish()
    if let out {
      try await write(result.codes, madeBy: Array(result.versions), run.client, to: out)
    }
    show(result)
  }

  private func write(
    _ codes: CodesFile, madeBy versions: [UInt64], _ client: Client, to path: String
  ) async throws {
    guard versions.count == 1, let version = versions.first else {
      throw CommandError(
        "--out: the model was swapped while the codes were made, and they would mix versions: "
          + "encode again")
    }
    var codes = codes
    let known = try await client.listModels(timeout: .seconds(10))
      .first { $0.name == model }?.versions.first { $0.version == version }
    codes.maker = known.map {
      CodesFile.Maker(model: model, version: version, sha256: $0.sha256)
    }
    try codes.write(to: path)
  }

  private func show(_ result: RefineRun.Result) {
    guard !json else {
      let list = result.stages.map { stage -> JSONValue in
        [
          "granularity": JSONValue(Int(stage.granularity)), "k": JSONValue(Int(stage.k)),
          "tokens": JSONValue(stage.tokens), "tokens_ending": JSONValue(stage.tokensEnding),
          "fvu": stage.fvu.map { JSONValue($0) } ?? .null, "l0": JSONValue(stage.l0),
          "compute_seconds": JSONValue(stage.computeSeconds),
        ]
      }
      return print(StrictJSON.text(.array(list), indented: true))
    }
    var table = TextTable("granularity", "k", "tokens", "ending", "FVU", "L0", "compute µs/token")
    for stage in result.stages {
      table.add(
        Int(stage.granularity).grouped, stage.k == 0 ? "–" : "\(stage.k)", stage.tokens.grouped,
        stage.tokensEnding.grouped, stage.fvu?.formatted(digits: 4) ?? "–",
        stage.l0.formatted(digits: 1),
        (stage.computeSeconds / Double(max(stage.tokens, 1)) * 1e6).formatted(digits: 1))
    }
    print(table.text, terminator: "")
    let tokens = result.stages.first?.tokens ?? 0
    print(
      "Mean granularity \(Int(result.meanGranularity).grouped); "
        + "\(Int(Double(tokens) / result.seconds).grouped) tokens/s.")
  }

  private func dataset() throws -> ActivationDataset {
    if let heldOutOf {
      let location = try DictionaryLocation(heldOutOf)
      let dataset = try location.activations(paths: [], sequences: sequences?.range)
      guard location.wasTrained(on: dataset) != true else {
        throw CommandError(
          sequences == nil
            ? "--held-out-of: \(heldOutOf) held out none, name --activations instead"
            : "--sequences: \(heldOutOf) was trained on some of them; those it held out are the last"
        )
      }
      return dataset
    }
    let dataset = try ActivationDataset(paths: activations)
    return try sequences.map { try dataset.selecting(sequences: $0.range) } ?? dataset
  }

  /// Where a model was swapped meanwhile: how many requests each version answered.
  private func showVersions(_ answeredBy: [UInt64: Int]) {
    guard answeredBy.count > 1 else { return }
    let parts = answeredBy.sorted { $0.key < $1.key }.map {
      "version \($0.key) answered \($0.value.grouped)"
    }
    let total = answeredBy.values.reduce(0, +)
    print(
      "The model was swapped meanwhile: of \(total.grouped) requests "
        + parts.joined(separator: ", ") + "; none failed.")
  }

  private func draw(_ rows: [EncodeRun.Result], tokens: Int, to path: String) throws {
    guard let full = rows.last?.computeSeconds, rows.allSatisfy({ $0.fvu != nil }) else {
      throw CommandError("--plot: the dictionary stores no activation mean, so there is no FVU")
    }
    let picture = GranularityPlot(
      subtitle: "\(model), \(tokens.grouped) tokens encoded over the network",
      points: rows.map {
        GranularityPlot.Point(
          granularity: Int($0.granularity), explained: 1 - ($0.fvu ?? 1),
          cost: $0.computeSeconds / full)
      })
    try DurableFile.replace(path, with: picture.svg)
  }

  /// The batch, made smaller where the largest possible response would not fit a frame: without a k
  /// a token may have every latent active.
  private func fittingBatch(_ client: Client) async throws -> Int {
    let models = try await client.listModels(timeout: .seconds(10))
    guard let status = models.first(where: { $0.name == model }),
      let version = status.versions.first(where: { $0.version == status.servingVersion }),
      version.selectionRule != "topk"
    else { return batch }
    let latents = granularities?.values.last ?? Int(version.residentLatents)
    return max(1, min(batch, (FrameDecoder.frameBytesMaxDefault - (1 << 20)) / (8 * (latents + 2))))
  }

  private func show(_ rows: [EncodeRun.Result], tokens: Int) {
    guard let last = rows.last else { return }
    guard !json else {
      let list = rows.map { row -> JSONValue in
        [
          "granularity": JSONValue(Int(row.granularity)), "k": JSONValue(Int(row.k)),
          "version": JSONValue(Int(clamping: row.version)),
          "fvu": row.fvu.map { JSONValue($0) } ?? .null,
          "l0": JSONValue(row.l0), "tokens": JSONValue(tokens), "seconds": JSONValue(row.seconds),
          "tokens_per_second": JSONValue(Double(tokens) / row.seconds),
          "queue_seconds": JSONValue(row.queueSeconds),
          "compute_seconds": JSONValue(row.computeSeconds),
          "wire_seconds": JSONValue(row.wireSeconds),
          "relative_seconds": JSONValue(row.seconds / last.seconds),
          "relative_compute_seconds": JSONValue(row.computeSeconds / last.computeSeconds),
        ]
      }
      return print(StrictJSON.text(.array(list), indented: true))
    }
    var table = TextTable(
      "granularity", "k", "FVU", "L0", "tokens/s", "relative time", "compute µs/token",
      "relative compute", "wire µs/token")
    func microseconds(_ seconds: Double) -> String {
      (seconds / Double(max(tokens, 1)) * 1e6).formatted(digits: 1)
    }
    for row in rows {
      table.add(
        Int(row.granularity).grouped, row.k == 0 ? "–" : "\(row.k)",
        row.fvu?.formatted(digits: 4) ?? "–", row.l0.formatted(digits: 1),
        Int(Double(tokens) / row.seconds).grouped,
        (row.seconds / last.seconds).formatted(digits: 3), microseconds(row.computeSeconds),
        (row.computeSeconds / last.computeSeconds).formatted(digits: 3),
        microseconds(row.wireSeconds))
    }
    print(table.text, terminator: "")
  }
}
