import ArgumentParser
import GranuleClient
import GranuleCommandLine
import GranuleFiles
import GranuleReports
import GranuleTraining
import GranuleWire

struct EncodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "encode",
    abstract: "Encode activations with a server, at one granularity or several, or up to a target.",
    discussion: """
      The table shows for each granularity the FVU, the mean number of active latents (L0), tokens per \
      second, and the time of a token: compute is the time in the server's workers, wire is the time \
      to send, receive and pack. Relative times compare with the largest granularity. With --repeat \
      the fastest repetition counts.

      With --refine each request goes through the granularities on its own, and the server sends only \
      the codes that changed since the previous one. With --target-fvu a request ends at the first \
      granularity that explains enough. Compute then counts from a request's first granularity, and \
      --out receives the last codes of each request.

      EXAMPLE
        granule encode --server 127.0.0.1:7700 --model smollm2 \\
          --activations test.npy --granularities 512,2048,8192 \\
          --out codes.safetensors
        granule encode --server 127.0.0.1:7700 --model smollm2 \\
          --activations test.npy --granularities 512,2048,8192 --target-fvu 0.15 \\
          --out codes.safetensors
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var request: RequestOptions
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(
    help: "Run of `granule train` whose held-out activations to encode, instead of --activations.")
  var heldOutOf: String?
  @Option(help: "Granularities, ascending. Default: the largest in the server's memory.")
  var granularities: Granularities?
  @Option(help: "Number of active latents per token. Default: the dictionary's own.")
  var k: UInt32?
  @Flag(help: "Send each request once for all granularities, and receive only changes.")
  var refine = false
  @Option(
    name: .customLong("target-fvu"),
    help: "FVU at which a request ends; implies --refine.")
  var targetFVU: Float?
  @Option(help: "Number of requests that wait for an answer at the same time.")
  var inFlight = 4
  @Option(help: "Range of sequences to encode, such as 36-39. Default: all.")
  var sequences: SequenceRange?
  @Option(
    name: .customLong("repeat"),
    help: "Number of times to encode everything, for steadier measurements.")
  var repetitions = 1
  @Option(help: "Safetensors file to write the codes of the largest granularity to.")
  var out: String?
  @Option(help: "SVG file to draw fidelity and cost against granularity in.")
  var plot: String?
  @OptionGroup var result: ResultOptions

  private var isRefining: Bool { refine || targetFVU != nil }

  func validate() throws {
    guard activations.isEmpty != (heldOutOf == nil) else {
      throw ValidationError("name either --activations or --held-out-of")
    }
    try require("--in-flight", inFlight, in: 1...1024, "requests")
    try require("--repeat", repetitions, in: 1...1_000_000)
    try require("--k", k, atLeast: 1)
    if let targetFVU, !(targetFVU > 0 && targetFVU.isFinite) {
      throw ValidationError("--target-fvu is \(targetFVU); it must be above 0")
    }
    if isRefining {
      guard granularities != nil else {
        throw ValidationError("--refine and --target-fvu need --granularities")
      }
      guard repetitions == 1, plot == nil else {
        throw ValidationError("--repeat and --plot cannot be used with --refine or --target-fvu")
      }
    }
    guard granularities?.values.last ?? 0 <= UInt32.max else {
      throw ValidationError("--granularities must be below 2^32")
    }
  }

  func run() async throws {
    let dataset = try dataset()
    if let out { try OutputFile.requireWritable(out, "--out") }
    if let plot { try OutputFile.requireWritable(plot, "--plot") }
    let client = try await connection.connect()
    let run = EncodeRun(
      client: client, model: request.model,
      rows: ActivationRows(
        count: dataset.tokens, dModel: dataset.dModel, copy: { dataset.copyTokens($0, into: $1) },
        describe: { dataset.describe(token: $0) }),
      k: k ?? 0, batch: try await fittingBatch(client), inFlight: inFlight)
    if isRefining { return try await refine(run, client) }
    let wanted = granularities?.values ?? [0]
    let bar = ProgressBar(isQuiet: result.json)
    var rows: [EncodeRun.Result] = []
    for (place, granularity) in wanted.enumerated() {
      rows.append(
        try await run.encode(UInt32(granularity), repetitions: repetitions) { done in
          bar.update(
            fraction: (Double(place) + done) / Double(wanted.count),
            granularity > 0 ? "granularity \(granularity.grouped)" : "full size")
        })
    }
    bar.finish()
    if let out, let last = rows.last {
      try await write(last.codes, madeBy: Array(last.answeredBy.keys), client, to: out)
    }
    let results = EncodeResults(rows: rows, tokens: dataset.tokens)
    print(result.json ? results.json + "\n" : results.text, terminator: "")
    if let plot {
      let title = "\(request.model), \(dataset.tokens.grouped) tokens encoded over the network"
      try DurableFile.replace(plot, with: try results.plot(subtitle: title).svgOnWhite)
    }
  }

  private func refine(_ run: EncodeRun, _ client: Client) async throws {
    let bar = ProgressBar(isQuiet: result.json)
    let refined = try await RefineRun(
      run: run, granularities: granularities?.values.map { UInt32($0) } ?? [],
      targetFVU: targetFVU ?? 0
    ).refine { bar.update(fraction: $0, "refining") }
    bar.finish()
    if let out {
      try await write(refined.codes, madeBy: Array(refined.versions), client, to: out)
    }
    print(result.json ? refined.json + "\n" : refined.text, terminator: "")
  }

  private func write(
    _ codes: CodesFile, madeBy versions: [UInt64], _ client: Client, to path: String
  ) async throws {
    guard versions.count == 1, let version = versions.first else {
      throw CommandError.refused(
        "--out: the model was swapped during the encoding, so the codes would mix versions: encode "
          + "again")
    }
    var codes = codes
    let known = try await client.listModels(timeout: .seconds(10))
      .first { $0.name == request.model }?.versions.first { $0.version == version }
    codes.maker = known.map {
      CodesFile.Maker(model: request.model, version: version, sha256: $0.sha256)
    }
    try codes.write(to: path)
  }

  private func dataset() throws -> ActivationDataset {
    if let heldOutOf {
      let location = try DictionaryLocation(heldOutOf)
      let dataset = try location.activations(paths: [], sequences: sequences?.range)
      guard location.wasTrained(on: dataset) != true else {
        throw CommandError.input(
          sequences == nil
            ? "--held-out-of: \(heldOutOf) held out no activations, name --activations instead"
            : "--sequences: \(heldOutOf) was trained on some of them; it held out the last ones")
      }
      return dataset
    }
    let dataset = try ActivationDataset(paths: activations)
    return try sequences.map { try dataset.selecting(sequences: $0.range) } ?? dataset
  }

  /// The batch, made smaller if the largest possible response would not fit a frame: without a k a
  /// token may have every latent active.
  private func fittingBatch(_ client: Client) async throws -> Int {
    let models = try await client.listModels(timeout: .seconds(10))
    guard let status = models.first(where: { $0.name == request.model }),
      let version = status.versions.first(where: { $0.version == status.servingVersion }),
      version.selectionRule != "topk"
    else { return request.batch }
    let latents = granularities?.values.last ?? Int(version.residentLatents)
    let room = FrameDecoder.frameBytesMaxDefault - (1 << 20)
    return max(1, min(request.batch, room / (8 * (latents + 2))))
  }
}
