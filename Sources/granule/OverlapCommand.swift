import ArgumentParser
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleTraining

struct OverlapCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "overlap",
    abstract: "Compare two dictionaries' latents by the cosines of their encoder vectors.",
    discussion: """
      The table shows the largest cosine of each latent of the first dictionary with the latents of \
      the second: how much of the first is found again in the second, for example the cores of two \
      distillations. For comparison it shows the same with the first's own other latents, since all \
      vectors may lie in one region; with as many directions drawn at random; and, with --pool, with \
      as many latents drawn at random from a dictionary. Each random row is the mean of 10 draws.

      EXAMPLE
        granule overlap seed-0/core seed-1/core --pool seed-1/cycle-5
      """)

  @Argument(help: "Dictionary folder, or finished run, whose latents to look for.")
  var first: String
  @Argument(help: "Dictionary folder, or finished run, to look for them in.")
  var second: String
  @Option(help: "Dictionary folder, or finished run, to draw random latents from.")
  var pool: String?
  @Option(help: "Seed of the random number generator.")
  var seed: UInt64 = 0
  @OptionGroup var result: ResultOptions

  private static let draws = 10
  private static let shares = [0.5, 0.7, 0.9]

  private struct Row {
    var name: String
    var key: String
    var mean: Double
    var shares: [Double]

    init(_ name: String, key: String, _ overlaps: [EncoderOverlap]) {
      func mean(_ value: (EncoderOverlap) -> Double) -> Double {
        overlaps.reduce(0) { $0 + value($1) } / Double(overlaps.count)
      }
      self.name = name
      self.key = key
      self.mean = mean(\.mean)
      shares = OverlapCommand.shares.map { share in mean { $0.share(atLeast: share) } }
    }
  }

  func run() async throws {
    // A function of its own, because Swift 6.3's optimiser crashes on splitting it if asynchronous.
    try compare()
  }

  private func compare() throws {
    let (one, other) = (try Self.read(first), try Self.read(second))
    var rows = [Row(second, key: "second", [try EncoderOverlap(of: one, in: other)])]
    if let own = EncoderOverlap.withinItself(one) {
      rows.append(Row("others of \(first)", key: "first", [own]))
    }
    if let pool {
      let dictionary = try Self.read(pool)
      rows.append(
        Row(
          "\(other.latents.grouped) latents of \(pool)", key: "random_latents",
          try (0..<Self.draws).map {
            try EncoderOverlap.randomLatents(
              of: one, count: other.latents, from: dictionary, seed: seed &+ UInt64($0))
          }))
    }
    rows.append(
      Row(
        "\(other.latents.grouped) random directions", key: "random_directions",
        try (0..<Self.draws).map {
          try EncoderOverlap.randomDirections(
            of: one, count: other.latents, seed: seed &+ UInt64($0))
        }))
    if result.json {
      var members: [JSONValue.Member] = [
        .init("latents", [JSONValue(one.latents), JSONValue(other.latents)])
      ]
      for row in rows {
        var figures: [JSONValue.Member] = [.init("mean_largest_cosine", JSONValue(row.mean))]
        for (least, share) in zip(Self.shares, row.shares) {
          figures.append(.init("share_at_least_\(least)", JSONValue(share)))
        }
        members.append(.init(row.key, .object(figures)))
      }
      print(StrictJSON.text(.object(members)))
      return
    }
    print("Of \(one.latents.grouped) latents of \(first), the largest cosine with one of\n")
    var table = TextTable(columns: ["", "mean"] + Self.shares.map { "≥ \($0)" })
    for row in rows {
      table.add(
        cells: [row.name, row.mean.formatted(digits: 3)]
          + row.shares.map { "\((100 * $0).formatted(digits: 1)) %" })
    }
    print(table.text, terminator: "")
  }

  private static func read(_ path: String) throws -> SparseAutoencoder {
    try SparseAutoencoder(folder: try DictionaryLocation(path).folder)
  }
}
