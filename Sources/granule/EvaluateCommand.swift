import ArgumentParser
import Foundation
import SparseAutoencoder
import StrictJSON
import Training

struct EvaluateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure how well each granularity of a dictionary reconstructs activations.",
    discussion: """
      Prints FVU, the fraction of variance unexplained, and L0 at each granularity: with the k that \
      the dictionary was calibrated to have there (as-trained) and with k · G / N (fixed-ratio, as \
      the progressive-coding paper evaluates). Variance is squared distance from the mean of each \
      dimension over the evaluated tokens; beside it from the mean that the dictionary stores, which \
      is what a server reports, and from a single mean over tokens and dimensions. A run is \
      evaluated on the sequences that it held out, unless --activations are given.

      EXAMPLE
        granule evaluate runs/first
        granule evaluate dictionary/ --activations test.npy --granularities 512,2048,8192 --json
      """)

  @Argument(help: "A run of `granule train`, or a dictionary folder.")
  var path: String
  @Option(parsing: .upToNextOption, help: "Files or folders of activations.")
  var activations: [String] = []
  @Option(help: "Use only these sequences, such as 36-39.")
  var sequences: SequenceRange?
  @Option(help: "Granularities, ascending. Default: those that the dictionary lists.")
  var granularities: Granularities?
  @Flag(help: "Print JSON; no progress.")
  var json = false

  func run() async throws {
    Interruption.install()
    let location = try DictionaryLocation(path)
    let dictionary = try SparseAutoencoder(folder: location.folder)
    let dataset = try location.activations(paths: activations, sequences: sequences?.range)
    var bar = ProgressBar(isQuiet: json)
    let evaluation: Evaluation
    do {
      evaluation = try Evaluation(
        dictionary, on: dataset, granularities: granularities?.values,
        onProgress: { done in
          bar.update(fraction: done, "\(Int(done * Double(dataset.tokens)).grouped) tokens")
        }, shouldStop: { Interruption.isRequested })
    } catch is CancellationError {
      bar.finish()
      throw ExitCode(Interruption.exitCode)
    }
    bar.finish()
    if json {
      let rows = evaluation.rows.map { row in
        JSONValue.object([
          .init("granularity", JSONValue(row.granularity)),
          .init("sparsity", .string(row.sparsity.rawValue)), .init("k", JSONValue(row.k)),
          .init("l0", JSONValue(row.l0)), .init("fvu", JSONValue(row.fvu)),
          .init("fvu_stored_mean", row.fvuStoredMean.map { JSONValue($0) } ?? .null),
          .init("fvu_scalar_mean", JSONValue(row.fvuScalarMean)),
        ])
      }
      print(
        StrictJSON.text([
          "tokens": JSONValue(evaluation.tokens),
          "silent_latents": JSONValue(evaluation.silentLatents), "rows": .array(rows),
        ]))
      return
    }
    print(
      "\(location.folder) on \(evaluation.tokens.grouped) tokens of "
        + "\(dataset.paths.joined(separator: ", "))\n")
    var table = TextTable("granularity", "sparsity", "k", "L0", "FVU", "stored mean", "scalar mean")
    for row in evaluation.rows {
      table.add(
        row.granularity.grouped, row.sparsity.rawValue, row.k > 0 ? "\(row.k)" : "–",
        row.l0.formatted(digits: 1), row.fvu.formatted(digits: 4),
        row.fvuStoredMean?.formatted(digits: 4) ?? "–",
        row.fvuScalarMean.formatted(digits: 4))
    }
    print(table.text)
    print(
      "\(evaluation.silentLatents.grouped) of \(dictionary.latents.grouped) latents were active for "
        + "no token.")
  }
}
