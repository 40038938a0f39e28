import ArgumentParser
import GranuleClient
import GranuleFiles
import GranuleTensors
import GranuleWire

/// `granule bench serve`: what a server gives under more load than it can take.
struct BenchServeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Measure a server below and beyond its capacity: goodput, latency, granularity.",
    discussion: """
      First finds the capacity, with as many requests in flight as the server needs to be busy. Then sends \
      requests at fixed moments, whatever comes back, at each multiple of that. Goodput are the tokens answered a \
      second; latency is counted from the moment at which a request was due. With --min-granularity each load is \
      offered twice, by clients that insist on their granularity and by clients that allow less.

      EXAMPLE
        granule bench serve --server 127.0.0.1:7700 --model smollm2 --loads 0.5,1,3 --min-granularity 512 \\
          --plot load.svg
      """)

  @OptionGroup var connection: ConnectionOptions
  @Option(help: "The model's name.")
  var model: String
  @Option(help: "Multiples of the capacity to offer.")
  var loads = Loads(values: [0.5, 1, 2, 3])
  @Option(help: "Tokens a request.")
  var tokens = 64
  @Option(help: "The granularity to ask for. Default: the largest that is resident.")
  var granularity: UInt32?
  @Option(help: "Offer each load once more by clients for which this granularity will do.")
  var minGranularity: UInt32?
  @Option(help: "Connections that share the requests.")
  var connections = 8
  @Option(help: "Seconds at each load.")
  var seconds = 5.0
  @Option(help: "Draw goodput, latency and granularity against load into this SVG file.")
  var plot: String?
  @Flag(help: "Print JSON.")
  var json = false

  /// Multiples on the command line: `0.5,1,3`.
  struct Loads: ExpressibleByArgument {
    let values: [Double]
    init(values: [Double]) { self.values = values }
    init?(argument: String) {
      let values = argument.split(separator: ",", omittingEmptySubsequences: false).map {
        Double($0)
      }
      self.values = values.compactMap { $0 }
      guard self.values.count == values.count,
        self.values.allSatisfy({ (0.01...100).contains($0) })
      else { return nil }
    }
    var defaultValueDescription: String { values.map { "\($0)" }.joined(separator: ",") }
  }

  func validate() throws {
    guard (1...1 << 20).contains(tokens) else {
      throw ValidationError("--tokens: is \(tokens); it must be 1 to 1048576")
    }
    guard (1...1000).contains(connections) else {
      throw ValidationError("--connections: is \(connections); it must be 1 to 1000")
    }
    guard (0.1...3600).contains(seconds) else {
      throw ValidationError("--seconds: is \(seconds); it must be 0.1 to 3600")
    }
    guard minGranularity != 0 else {
      throw ValidationError("--min-granularity: is 0; it must be at least 1")
    }
  }

  /// A request that was answered.
  private struct Answer {
    var granularity: UInt32
    /// Seconds since it was due.
    var latency: Double
    /// Seconds since the load began.
    var end: Double
  }

  /// What came back for the requests of one load.
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
    if json {
      print(StrictJSON.text(curve.json, indented: true))
    } else {
      print(curve.table, terminator: "")
    }
    if let plot {
      try DurableFile.replace(
        plot, with: curve.svg(title: "\(model), \(tokens.grouped) tokens a request"))
    }
  }

  /// Waits until the server has got over the load before.
  ///
  /// - Throws: `CommandError` where others keep it busy.
  private func settle(_ client: Client) async throws {
    let end = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < end {
      let status = try await client.status(timeout: .seconds(60))
      if status.queuedRequests == 0, status.pressure == 0 { return }
      try await Task.sleep(for: .milliseconds(20))  // asked without pause it would be a load itself
    }
    throw CommandError(
      "the server has requests waiting for 60 s that are not this command's; measure one that is idle"
    )
  }

  private func point(
    _ load: Double, _ rate: Double, _ tally: Tally, _ minGranularity: UInt32
  ) -> LoadCurve.Point {
    // What was answered while the load lasted: the queue that is left is no rate.
    let inTime = tally.answers.filter { $0.end <= seconds }.count
    let latencies = tally.answers.map(\.latency).sorted()
    func latency(_ share: Double) -> Double? {
      latencies.isEmpty
        ? nil : latencies[min(Int(share * Double(latencies.count)), latencies.count - 1)]
    }
    let granularities = tally.answers.reduce(0) { $0 + Double($1.granularity) }
    return LoadCurve.Point(
      load: load, minGranularity: minGranularity == 0 ? nil : Int(minGranularity),
      offered: rate * Double(tokens), goodput: Double(inTime * tokens) / seconds,
      answered: tally.answers.count, refused: tally.refused, p50: latency(0.5),
      p99: latency(0.99), meanGranularity: granularities / Double(max(tally.answers.count, 1)))
  }

  private func request(_ client: Client) async throws -> EncodeRequest {
    let models = try await client.listModels(timeout: .seconds(10))
    guard let serving = models.first(where: { $0.name == model }),
      let version = serving.versions.first(where: { $0.version == serving.servingVersion })
    else { throw CommandError("--model: the server does not serve \(model)") }
    // Which numbers they are does not matter.
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

  /// Requests a second at the granularity asked for, with some always waiting.
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
        // Until the request is due, however long others wait for answers: an open loop.
        try await Task.sleep(until: due)  // a caller's moment, no synchronisation
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
