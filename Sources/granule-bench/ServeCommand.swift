import ArgumentParser
import GranuleClient
import GranuleCommandLine
import GranuleFiles
import GranuleReports
import GranuleTensors
import GranuleWire
import Histogram

struct ServeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Measure a server below and beyond its capacity: goodput, latency, granularity.",
    discussion: """
      The bench first finds the capacity, with as many requests in flight as keep the server busy. It \
      then sends requests at fixed times, whatever comes back, at each multiple of that capacity. \
      Goodput is the number of tokens answered per second; latency counts from the time at which a \
      request was due. With --min-granularity each load is offered twice: by clients that insist on \
      their granularity, and by clients that accept less.

      EXAMPLE
        granule-bench serve --server 127.0.0.1:7700 --model smollm2 \\
          --loads 0.5,1,3 --min-granularity 512 --plot load.svg
      """)

  @OptionGroup var connection: ConnectionOptions
  @Option(help: "Name of the model.")
  var model: String
  @Option(help: "Loads to offer, as multiples of the capacity from 0.01 to 100.")
  var loads = Numbers(values: [0.5, 1, 2, 3])
  @Option(help: "Number of tokens per request.")
  var tokens = 64
  @Option(help: "Granularity to ask for. Default: the largest in the server's memory.")
  var granularity: UInt32?
  @Option(
    help: "Granularity that the clients of a second round accept. Default: no second round.")
  var minGranularity: UInt32?
  @Option(help: "Number of connections that share the requests.")
  var connections = 8
  @Option(help: "Seconds at each load.")
  var seconds = 5.0
  @Option(help: "SVG file to draw goodput, latency and granularity against load in.")
  var plot: String?
  @OptionGroup var result: ResultOptions

  func validate() throws {
    for load in loads.values { try require("--loads", load, in: 0.01...100) }
    try require("--tokens", tokens, in: 1...1 << 20)
    try require("--connections", connections, in: 1...1000)
    try require("--seconds", seconds, in: 0.1...3600, "seconds")
    try require("--min-granularity", minGranularity, atLeast: 1)
  }

  /// A request that was answered.
  private struct Answer {
    var granularity: UInt32
    /// Seconds since it was due.
    var latency: Double
    /// Seconds since the load began.
    var end: Double
  }

  /// The answers to the requests of one load.
  private struct Tally {
    var answers: [Answer] = []
    var refused = 0
  }

  func run() async throws {
    if let plot { try OutputFile.requireWritable(plot, "--plot") }
    var clients: [Client] = []
    for _ in 0..<connections { clients.append(try await connection.connect()) }
    var request = try await request(clients[0])
    let capacity = try await capacity(clients, request)
    var points: [LoadCurve.Point] = []
    for minGranularity in [0] + (minGranularity.map { [$0] } ?? []) {
      request.minGranularity = minGranularity
      for load in loads.values {
        try await settle(clients[0])
        let tally = try await offer(load * capacity, clients, request)
        points.append(point(load, load * capacity, tally, minGranularity))
      }
    }
    let curve = LoadCurve(points: points)
    if result.json {
      print(StrictJSON.text(curve.json, indented: true))
    } else {
      print(curve.table, terminator: "")
    }
    if let plot {
      try DurableFile.replace(
        plot, with: curve.svg(title: "\(model), \(tokens.grouped) tokens a request"))
    }
  }

  /// Waits until the server has recovered from the previous load.
  ///
  /// - Throws: `CommandError.refused` if other clients keep it busy.
  private func settle(_ client: Client) async throws {
    let end = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < end {
      let status = try await client.status(timeout: .seconds(60))
      if status.queuedRequests == 0, status.pressure == 0 { return }
      // Without a pause, asking would be a load itself.
      try await Task.sleep(for: .milliseconds(20))
    }
    throw CommandError.refused(
      "the server has had waiting requests of other clients for 60 s; measure a server that is idle"
    )
  }

  private func point(
    _ load: Double, _ rate: Double, _ tally: Tally, _ minGranularity: UInt32
  ) -> LoadCurve.Point {
    // Answers after the load has ended do not measure the rate.
    let inTime = tally.answers.filter { $0.end <= seconds }.count
    // Microseconds up to an hour, to three digits.
    var latencies = Histogram<UInt32>(
      highestTrackableValue: 3_600_000_000, numberOfSignificantValueDigits: .three)
    for answer in tally.answers {
      _ = latencies.record(min(UInt64(answer.latency * 1e6), 3_600_000_000))
    }
    func latency(_ percentile: Double) -> Double? {
      latencies.totalCount == 0 ? nil : Double(latencies.valueAtPercentile(percentile)) * 1e-6
    }
    let granularities = tally.answers.reduce(0) { $0 + Double($1.granularity) }
    return LoadCurve.Point(
      load: load, minGranularity: minGranularity == 0 ? nil : Int(minGranularity),
      offered: rate * Double(tokens), goodput: Double(inTime * tokens) / seconds,
      answered: tally.answers.count, refused: tally.refused, p50: latency(50),
      p99: latency(99), meanGranularity: granularities / Double(max(tally.answers.count, 1)))
  }

  private func request(_ client: Client) async throws -> EncodeRequest {
    let models = try await client.listModels(timeout: .seconds(10))
    guard let serving = models.first(where: { $0.name == model }),
      let version = serving.versions.first(where: { $0.version == serving.servingVersion })
    else {
      throw CommandError.refused(
        "--model: the server does not serve \(model); name one of granule models")
    }
    // Any numbers will do.
    let values = (0..<tokens * Int(version.dModel)).map {
      Float(($0 &* 2_654_435_761) % 1999) / 999 - 1
    }
    return EncodeRequest(
      model: model,
      activations: PackedTensor(
        type: .float32, shape: [UInt32(tokens), version.dModel],
        data: SharedBytes(copying: values)),
      granularities: granularity.map { [$0] } ?? [])
  }

  /// Requests per second at the granularity asked for, with some always waiting.
  private func capacity(_ clients: [Client], _ request: EncodeRequest) async throws -> Double {
    let end = ContinuousClock.now + .seconds(seconds)
    let begin = ContinuousClock.now
    let answered = try await withThrowingTaskGroup(of: Int.self) { group in
      for client in clients {
        group.addTask {
          var count = 0
          while ContinuousClock.now < end {
            _ = try await client.encode(request)
            count += 1
          }
          return count
        }
      }
      return try await group.reduce(0, +)
    }
    return Double(answered) / (begin.duration(to: .now) / .seconds(1))
  }

  private func offer(
    _ rate: Double, _ clients: [Client], _ request: EncodeRequest
  ) async throws -> Tally {
    let begin = ContinuousClock.now
    return try await withThrowingTaskGroup(of: Answer?.self) { group in
      for number in 0..<max(Int(rate * seconds), 1) {
        let due = begin + .seconds(Double(number) / rate)
        // An open loop: a request is sent when it is due, however many wait for answers.
        // The time is the measurement's own, not a synchronisation.
        try await Task.sleep(until: due)
        let client = clients[number % clients.count]
        group.addTask {
          do {
            let response = try await client.encode(request)
            return Answer(
              granularity: response.granularity, latency: due.duration(to: .now) / .seconds(1),
              end: begin.duration(to: .now) / .seconds(1))
          } catch let error as ServerError where error.code == .unavailable {
            return nil
          }
        }
      }
      var tally = Tally()
      while let answer = try await group.next() {
        if let answer { tally.answers.append(answer) } else { tally.refused += 1 }
      }
      return tally
    }
  }
}
