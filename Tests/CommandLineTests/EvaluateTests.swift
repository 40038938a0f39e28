import Foundation
import GranuleDictionary
import GranuleFiles
import TestSupport
import Testing

#if canImport(FoundationXML)
  import FoundationXML
#endif

@Suite("evaluate", .serialized)
struct EvaluateTests {
  let folder: TemporaryFolder
  static let dModel = TinyLlama.dModel

  init() throws {
    folder = try TemporaryFolder()
    var generator = SeededGenerator(seed: 19)
    try writeNumpy(
      generator.normals(300 * Self.dModel), shape: [300, Self.dModel], to: path("x.npy"))
    for (name, latents, k) in [("a", 32, 2), ("b", 64, 4), ("c", 64, 8)] {
      try FileManager.default.createDirectory(
        atPath: path(name), withIntermediateDirectories: false)
      try SparseAutoencoder.random(
        dModel: Self.dModel, latents: latents, rule: .topk(k: k), seed: UInt64(latents + k)
      ) { parts in
        parts.granularities = [8, 16, 32, 64].filter { $0 <= latents }.map {
          Granularity(latents: $0, k: max(1, k - 4 + Int(log2(Double($0))) / 2))
        }
        parts.provenance.hook = "blocks.1.hook_resid_pre"
      }.write(to: path(name))
    }
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  func json(_ arguments: [String]) throws -> JSONValue {
    let (code, output, errors) = try CommandProcess.run(["evaluate"] + arguments + ["--json"])
    #expect(code == 0, "\(errors)")
    return try StrictJSON.parse(output)
  }

  /// The figures of a page. They must be well-formed, and hold no number that is none.
  @discardableResult
  func checkFigures(_ html: String, least: Int) throws -> [DrawnFigure] {
    let pictures = html.components(separatedBy: "<svg").dropFirst().map {
      "<svg" + $0.components(separatedBy: "</svg>")[0] + "</svg>"
    }
    #expect(pictures.count >= least)
    let figures = try pictures.map { picture in
      #expect(!picture.contains("nan") && !picture.contains("inf"))
      return try #require(DrawnFigure(svg: picture), "is not XML")
    }
    // From the network comes nothing: no address but the name space of SVG.
    let addresses = html.components(separatedBy: "http").dropFirst()
    #expect(addresses.allSatisfy { $0.hasPrefix("://www.w3.org/2000/svg") })
    return figures
  }

  /// Whether a figure of FVU or L0 by granularity has a line for each sparsity, through the values of
  /// the rows.
  func expect(_ figures: [DrawnFigure], _ label: String, draws key: String, of rows: [JSONValue])
    throws
  {
    let figure = try #require(figures.first { $0.yLabel == label }, "no figure of \(label)")
    let drawn = figure.lines()
    try #require(drawn.count == 2)
    let trained = rows.filter { $0["sparsity"]?.string == "as-trained" }
    // A granularity has a row of its own for the fixed ratio only if its k differs there.
    let fixed = trained.map { row in
      rows.last { $0["granularity"] == row["granularity"] } ?? row
    }
    for (line, expected) in zip(drawn, [trained, fixed]) {
      try #require(line.count == expected.count)
      for (point, row) in zip(line, expected) {
        let granularity = try Double(#require(row["granularity"]?.integer))
        let value = try #require(row[key]?.number)
        let isThere =
          abs(point.x / granularity - 1) < 0.02 && abs(point.y / value - 1) < 0.02
        #expect(isThere, "\(label): \(point), not (\(granularity), \(value))")
      }
    }
  }

  @Test("shows everything of one dictionary, recaptured loss at the block that it names included")
  func one() throws {
    try Data(TinyLlama.gguf(seed: 2).bytes()).write(to: URL(fileURLWithPath: path("model.gguf")))
    try TinyLlama.text(characters: 3000, seed: 2)
      .write(toFile: path("text.txt"), atomically: false, encoding: .utf8)
    let arguments = [
      path("b"), "--activations", path("x.npy"), "--model", path("model.gguf"), "--text",
      path("text.txt"), "--context", "32", "--tokens", "500", "--html", path("page.html"),
    ]
    let found = try json(arguments)
    let rows = try #require(found["rows"]?.elements)
    #expect(rows.filter { $0["sparsity"] == "as-trained" }.count == 4)
    #expect(rows.allSatisfy { $0["rsa"]?.number != nil && $0["dead_latents"]?.integer != nil })
    #expect(found["recaptured"]?["rows"]?.elements?.count == rows.count)
    let correlations = try #require(found["metric_correlations"]?.elements)
    #expect(correlations[0]["metrics"]?.elements?.contains("loss_recovered_against_mean") == true)
    #expect(found["decoder_cosines"]?.elements?.count == 4)
    #expect(
      found["power_laws"]?.elements?.map { $0["of"] }
        == ["decoder_covariance_eigenvalues", "mean_squared_activation", "frequency"])
    let bins = try #require(found["activation_mass"]?["bins"]?.elements)
    #expect(bins.first?["first"] == 0 && bins.last?["last"] == 63)
    // Nearly every token has k active latents: half of a random dictionary's are above zero.
    for row in rows {
      let (l0, k) = (try #require(row["l0"]?.number), try #require(row["k"]?.number))
      #expect(abs(l0 / k - 1) < 0.02)
    }
    let html = try String(contentsOfFile: path("page.html"), encoding: .utf8)
    let figures = try checkFigures(html, least: 12)
    try expect(figures, "FVU", draws: "fvu", of: rows)
    try expect(figures, "L0", draws: "l0", of: rows)

    let (code, text, errors) = try CommandProcess.run(["evaluate"] + arguments)
    #expect(code == 0, "\(errors)")
    for expected in [
      "RSA", "before block 1", "loss recovered", "max cosine earlier", "power law", "page.html",
    ] {
      #expect(text.contains(expected), "\(expected) is missing in:\n\(text)")
    }
    try expectTable(text, shows: rows)
  }

  /// Whether the first table of a text has these rows, each number below its own title.
  func expectTable(_ text: String, shows rows: [JSONValue]) throws {
    let lines = text.split(separator: "\n").map(Self.cells)
    let heading = try #require(lines.firstIndex { $0.contains("FVU") && $0.contains("L0") })
    let titles = lines[heading]
    for (cells, row) in zip(lines[(heading + 2)...], rows) {
      for (title, key, digits) in [
        ("granularity", "granularity", 0), ("k", "k", 0), ("L0", "l0", 1), ("FVU", "fvu", 4),
        ("scalar mean", "fvu_scalar_mean", 4), ("RSA", "rsa", 4), ("dead", "dead_latents", 0),
      ] {
        let column = try #require(titles.firstIndex(of: title))
        let value = try #require(row[key]?.number ?? row[key]?.integer.map { Double($0) })
        #expect(cells[column] == String(format: "%.\(digits)f", value), "\(title) of \(row)")
      }
    }
  }

  /// The cells of a table's line, which two spaces and more stand between.
  private static func cells(_ line: Substring) -> [String] {
    line.components(separatedBy: "  ").map { $0.trimmingCharacters(in: .whitespaces) }
      .filter { !$0.isEmpty }
  }

  @Test("compares several: the frontier, and scaling laws")
  func several() throws {
    let paths = ["a", "b", "c"].map(path)
    let found = try json(paths + ["--activations", path("x.npy"), "--html", path("page.html")])
    let dictionaries = try #require(found["dictionaries"]?.elements)
    #expect(dictionaries.map { $0["dictionary"] } == ["a", "b", "c"])
    #expect(dictionaries.map { $0["latents"] } == [32, 64, 64])
    let frontier = try #require(found["frontier"]?.elements)
    #expect(frontier.count == 3 && frontier.contains { $0["on_frontier"] == true })
    let laws = try #require(found["scaling_laws"]?.elements)
    #expect(laws.contains { $0["sparsity"] == "as-trained" && $0["has_floor"] == false })
    #expect(laws.allSatisfy { $0["points"] == 11 && $0["r_squared"]?.number != nil })
    let figures = try checkFigures(
      try String(contentsOfFile: path("page.html"), encoding: .utf8), least: 12)
    // The first dictionary's points are circles.
    let drawn = try #require(figures.first { $0.title.contains("frontier") }?.circles().first)
    let (l0, fvu) = (
      try #require(frontier[0]["l0"]?.number), try #require(frontier[0]["fvu"]?.number)
    )
    #expect(abs(drawn.x / l0 - 1) < 0.02 && abs(drawn.y / fvu - 1) < 0.02, "\(drawn)")
    // A granularity is measured for the dictionaries that have it.
    let chosen = try json(
      paths + ["--activations", path("x.npy"), "--granularities", "16,64", "--without-decoder"])
    #expect(
      chosen["dictionaries"]?.elements?.map { dictionary in
        Set(dictionary["rows"]?.elements?.compactMap { $0["granularity"]?.integer } ?? [])
      } == [[16], [16, 64], [16, 64]])
  }

  @Test("says that a run held nothing out, and refuses to take that for held-out activations")
  func heldOutNone() throws {
    let run = [
      "train", "--activations", path("x.npy"), "--latents", "32", "--k", "2", "--tokens", "640",
      "--batch", "64", "--out", path("run"),
    ]
    let (code, _, errors) = try CommandProcess.run(run)
    #expect(code == 0, "\(errors)")
    #expect(try json([path("run")])["on_training_activations"] == true)
    let same = ["--activations", path("x.npy")]
    #expect(try json([path("run")] + same)["on_training_activations"] == true)
    // Of a dictionary folder nobody knows.
    #expect(try json([path("a")] + same)["on_training_activations"] == .null)
    let (_, text, _) = try CommandProcess.run(["evaluate", path("run")])
    #expect(text.contains("which it was trained on"))
    let (refused, _, reason) = try CommandProcess.run([
      "encode", "--server", "127.0.0.1:1", "--model", "m", "--held-out-of", path("run"),
    ])
    #expect(refused == 1 && reason.contains("held out no activations"), "\(reason)")
  }

  @Test("does not compare what was measured on other sequences of the same files")
  func otherSequences() throws {
    var generator = SeededGenerator(seed: 21)
    try writeNumpy(
      generator.normals(20 * 16 * Self.dModel), shape: [20, 16, Self.dModel], to: path("s.npy"))
    for (name, sequences) in [("first", "0-9"), ("second", "10-19")] {
      let (code, _, errors) = try CommandProcess.run([
        "train", "--activations", path("s.npy"), "--sequences", sequences, "--latents", "32", "--k",
        "2", "--tokens", "640", "--batch", "64", "--out", path(name),
      ])
      #expect(code == 0, "\(errors)")
    }
    #expect(try json([path("first")])["on_training_activations"] == false)
    let trained = ["--sequences", "0-3"]
    #expect(try json([path("first")] + trained)["on_training_activations"] == true)
    let (refused, _, reason) = try CommandProcess.run(
      ["encode", "--server", "127.0.0.1:1", "--model", "m", "--held-out-of", path("first")]
        + trained)
    #expect(refused == 1 && reason.contains("--sequences"), "\(reason)")
    // A folder whose dictionary is only spliced in comes before them.
    let (code, _, errors) = try CommandProcess.run([
      "evaluate", path("a"), path("first"), path("second"), "--model", "m.gguf", "--text", "t",
      "--layer", "1",
    ])
    #expect(code == 1 && errors.contains("held out different activations"), "\(errors)")
  }

  @Test("has one sparsity for dictionaries without a k")
  func withoutK() throws {
    for (name, seed) in [("t", 1), ("u", 2)] {
      try FileManager.default.createDirectory(
        atPath: path(name), withIntermediateDirectories: false)
      try SparseAutoencoder.random(
        dModel: Self.dModel, latents: 64, rule: .relu, seed: UInt64(seed)
      ) { $0.granularities = [8, 16, 32, 64].map { Granularity(latents: $0, k: 0) } }
      .write(to: path(name))
    }
    let found = try json([path("t"), path("u"), "--activations", path("x.npy")])
    for dictionary in try #require(found["dictionaries"]?.elements) {
      #expect(
        dictionary["metric_correlations"]?.elements?.map { $0["sparsity"] } == ["as-trained"])
    }
    let laws = try #require(found["scaling_laws"]?.elements)
    #expect(laws.allSatisfy { $0["sparsity"] == "as-trained" })
  }

  @Test("ends at Ctrl-C with 130, and leaves the page that was there")
  func interruption() throws {
    var generator = SeededGenerator(seed: 20)
    let rows = generator.normals(500 * Self.dModel)
    let many = (0..<400_000 * Self.dModel).map { rows[$0 % rows.count] }
    try writeNumpy(many, shape: [400_000, Self.dModel], to: path("many.npy"))
    try "before".write(toFile: path("page.html"), atomically: false, encoding: .utf8)
    let command = try CommandProcess([
      "evaluate", path("a"), "--activations", path("many.npy"), "--html", path("page.html"),
    ])
    #expect(command.nextErrors().contains("400,000 tokens"))
    #expect(command.end(SIGINT) == 130)
    #expect(try String(contentsOfFile: path("page.html"), encoding: .utf8) == "before")
  }

  @Test("says what is wrong before anything is measured")
  func refusals() throws {
    let x = ["--activations", path("x.npy")]
    for (arguments, code, fault) in [
      ([path("a")], 1, "--activations"),
      ([path("a")] + x + ["--granularities", "33"], 1, "32 latents"),
      ([path("a"), path("b")] + x + ["--granularities", "128"], 1, "32 latents"),
      ([path("a")] + x + ["--html", "/nowhere/page.html"], 1, "--html"),
      ([path("a")] + x + ["--html", folder.path], 1, "--html"),
      ([path("a")] + x + ["--rsa-samples", "-1"], 64, "--rsa-samples"),
      ([path("a")] + x + ["--fit-range", "0.5,0.1"], 64, "--fit-range"),
      ([path("a")] + x + ["--text", "t"], 64, "--model"),
      ([path("a")] + x + ["--context", "64"], 64, "--context"),
      (
        [path("a"), "--model", "m.gguf", "--text", "t", "--layer", "1", "--sequences", "0-1"], 64,
        "--sequences"
      ),
      ([], 64, "dictionary"),
    ] {
      let (got, _, errors) = try CommandProcess.run(["evaluate"] + arguments)
      #expect(Int(got) == code && errors.contains(fault), "\(arguments): \(errors)")
    }
  }
}
