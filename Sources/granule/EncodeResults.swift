import GranuleClient
import GranuleCommandLine
import GranuleFiles
import GranuleReports

/// The results of `granule encode` at each granularity, as it prints and draws them.
struct EncodeResults {
  /// Granularities ascending; at least one.
  let rows: [EncodeRun.Result]
  /// Number of tokens that each row encoded.
  let tokens: Int

  var json: String {
    guard let last = rows.last else { return "[]" }
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
    return StrictJSON.text(.array(list), indented: true)
  }

  /// The table, and a line on versions if the model was swapped.
  var text: String {
    guard let last = rows.last else { return "" }
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
    return table.text + versions
  }

  private var versions: String {
    let answeredBy = rows.reduce(into: [UInt64: Int]()) { sum, row in
      sum.merge(row.answeredBy) { $0 + $1 }
    }
    guard answeredBy.count > 1 else { return "" }
    let parts = answeredBy.sorted { $0.key < $1.key }.map {
      "version \($0.key) answered \($0.value.grouped)"
    }
    let total = answeredBy.values.reduce(0, +)
    return "The model was swapped during the \(total.grouped) requests: "
      + parts.joined(separator: ", ") + "; none failed.\n"
  }

  /// - Throws: `CommandError.input` if a granularity has no FVU.
  func plot(subtitle: String) throws -> Plot {
    guard let full = rows.last?.computeSeconds, rows.allSatisfy({ $0.fvu != nil }) else {
      throw CommandError.input(
        "--plot: the dictionary stores no activation mean, so it has no FVU to draw; leave --plot out"
      )
    }
    return .granularities(
      subtitle: subtitle,
      rows.map {
        Plot.GranularityPoint(
          granularity: Int($0.granularity), explained: 1 - ($0.fvu ?? 1),
          cost: $0.computeSeconds / full)
      })
  }
}

extension RefineRun.Result {
  var json: String {
    let list = stages.map { stage -> JSONValue in
      [
        "granularity": JSONValue(Int(stage.granularity)), "k": JSONValue(Int(stage.k)),
        "tokens": JSONValue(stage.tokens), "tokens_ending": JSONValue(stage.tokensEnding),
        "fvu": stage.fvu.map { JSONValue($0) } ?? .null, "l0": JSONValue(stage.l0),
        "compute_seconds": JSONValue(stage.computeSeconds),
      ]
    }
    return StrictJSON.text(.array(list), indented: true)
  }

  var text: String {
    var table = TextTable("granularity", "k", "tokens", "ending", "FVU", "L0", "compute µs/token")
    for stage in stages {
      table.add(
        Int(stage.granularity).grouped, stage.k == 0 ? "–" : "\(stage.k)", stage.tokens.grouped,
        stage.tokensEnding.grouped, stage.fvu?.formatted(digits: 4) ?? "–",
        stage.l0.formatted(digits: 1),
        (stage.computeSeconds / Double(max(stage.tokens, 1)) * 1e6).formatted(digits: 1))
    }
    let tokens = stages.first?.tokens ?? 0
    return table.text + "Mean granularity \(Int(meanGranularity).grouped); "
      + "\(Int(Double(tokens) / seconds).grouped) tokens/s.\n"
  }
}
