import ArgumentParser
import Client
import StrictJSON
import Wire

/// `granule bench serve`: what a server gives under more load than it can take.
struct BenchServeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Measure a server below and beyond its capacity: goodput, latency, granularity.",
    discussion: """
      First finds the capacity, with as many requests in flight as the server needs to be busy. Then sends \
      requests at fixed moments, whatever comes back, at each multiple of that. Goodput are the tokens answered a \
      second; latency is counted from the moment at which a request was due.

      EXAMPLE
        granule bench serve --server 127.0.0.1:7700 --model smollm2 --loads 0.5,1,3 --min-granularity 512
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
  @Option(help: "The least granularity that will do under load. Default: the one asked for.")
  var minGranularity: UInt32 = 0
  @Option(help: "Connections that share the requests.")
  var connections = 8
  @Option(help: "Seconds at each load.")
  var seconds = 5.0
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

    /// Seconds; not a number without answers.
    func latency(_ share: Double) -> Double {
      let sorted = answers.map(\.latency).sorted()
      return sorted.isEmpty
        ? .nan : sorted[min(Int(share * Double(sorted.count)), sorted.count - 1)]
    }
    var meanGranularity: Double {
      answers.reduce(0) { $0 + Double($1.granularity) } / Double(max(answers.count, 1))
    }
  }

  func run() async throws {
    var clients: [Client] = []
    for _ in 0..<connections { clients.append(try await connection.connect()) }
    let request = try await request(clients[0])
    let capacity = try await capacity(clients, request)
    var table = TextTable(
      "load", "offered tokens/s", "goodput", "refused", "p50 ms", "p99 ms", "mean granularity")
    var list: [JSONValue] = []
    for load in loads.values {
      let rate = load * capacity
      let tally = try await offer(rate, clients, request)
      // What was answered while the load lasted: the queue that is left is no rate.
      let inTime = tally.answers.filter { $0.end <= seconds }.count
      let goodput = Double(inTime * tokens) / seconds
      let offered = rate * Double(tokens)
      let (p50, p99) = (tally.latency(0.5), tally.latency(0.99))
      table.add(
        load.formatted(digits: 2), Int(offered).grouped, Int(goodput).grouped,
        tally.refused.grouped, (p50 * 1e3).formatted(digits: 1), (p99 * 1e3).formatted(digits: 1),
        Int(tally.meanGranularity).grouped)
      list.append([
        "load": .real(load), "offered_tokens_per_second": .real(offered),
        "goodput_tokens_per_second": .real(goodput), "answered": JSONValue(tally.answers.count),
        "refused": JSONValue(tally.refused), "p50_seconds": p50.isNaN ? .null : .real(p50),
        "p99_seconds": p99.isNaN ? .null : .real(p99),
        "mean_granularity": .real(tally.meanGranularity),
      ])
    }
    if json {
      print(StrictJSON.text(.array(list), indented: true))
    } else {
      print(table.text, terminator: "")
    }
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
      granularities: granularity.map { [$0] } ?? [], minGranularity: minGranularity)
  }

  /// Requests a second at the granularity asked for, with some always waiting.
  private func capacity(_ clients: [Client], _ request: EncodeRequest) async throws -> Double {
    var request = request
    request.minGranularity = 0
    let (full, end) = (request, ContinuousClock.now + .seconds(seconds))
    let begin = ContinuousClock.now
    let answered = try await withThrowingTaskGroup(of: Int.self) { group in
      for client in clients {
        group.addTask {
          var count = 0
          while ContinuousClock.now < end {
            _ = try await client.encode(full)
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
