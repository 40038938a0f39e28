import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleFiles
import GranuleLanguageModel
import GranuleReports
import GranuleTensors
import GranuleThreads

struct ModelCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "model",
    abstract: "Measure a language model: forward, forward with its loss, and backward.",
    discussion: """
      Each measurement runs a batch of fixed pseudo-random tokens several times, and the fastest run \
      counts. benchmarks/language_model.py runs PyTorch on the same tokens beside it.

      EXAMPLE
        granule-bench model --model SmolLM2-135M-Instruct.Q4_1.gguf --layer 10,15
      """)

  @Option(help: "GGUF file of the language model.")
  var model: String
  @Option(help: "Blocks to run forward to; the backward pass starts at the last of them.")
  var layer = Granularities(values: [10, 15])
  @Option(help: "Number of tokens per sequence.")
  var context = 512
  @Option(help: "Number of sequences per batch.")
  var sequences = 4
  @Option(
    name: .customLong("repeat"),
    help: "Number of runs of each measurement, of which the fastest counts.")
  var repetitions = 3
  @OptionGroup var result: ResultOptions

  func validate() throws {
    try require("--sequences", sequences, atLeast: 1)
    try require("--repeat", repetitions, atLeast: 1)
  }

  /// The fastest run of one measurement.
  private struct Measurement {
    let work: String
    let seconds: Double
  }

  func run() async throws {
    let model = LanguageModel(try LlamaWeights(GGUFFile(path: model)))
    let shape = model.configuration
    guard let last = layer.values.last, last <= shape.blocks else {
      throw ValidationError("--layer: \(shape.name) has \(shape.blocks) blocks, name some of them")
    }
    let batch = try TokenBatch(Self.tokens(sequences, context, shape.vocabulary), for: shape)
    var measurements: [Measurement] = []
    func measure(_ work: String, _ body: () -> Void) {
      let clock = ContinuousClock()
      let fastest = (0..<repetitions).map { _ in clock.measure(body) }.min() ?? .zero
      measurements.append(Measurement(work: work, seconds: fastest / .seconds(1)))
    }
    for layer in layer.values {
      measure("forward to block \(layer)") { _ = model.residual(of: batch, before: layer) }
    }
    var loss = 0.0
    measure("forward with loss") {
      let final = model.residual(of: batch, before: shape.blocks)
      loss = model.nextTokenLoss(final: final, of: batch).mean
    }
    let hidden = model.residual(of: batch, before: last)
    var gradientNorm = 0.0
    measure("forward and backward from block \(last)") {
      let gradient = model.lossGradient(of: batch, at: hidden, before: last).gradient
      gradientNorm = gradient.values.reduce(0) { $0 + Double($1 * $1) }.squareRoot()
    }
    if result.json {
      print(
        StrictJSON.text([
          "model": .string(shape.name), "tokens": JSONValue(batch.rows),
          "mean_loss": JSONValue(loss), "gradient_norm": JSONValue(gradientNorm),
          "measurements": .array(
            measurements.map {
              .object([
                .init("work", .string($0.work)), .init("seconds", JSONValue($0.seconds)),
                .init("tokens_per_second", JSONValue(Double(batch.rows) / $0.seconds)),
              ])
            }),
        ]))
      return
    }
    print(
      "\(shape.name), \(sequences) sequences of \(context) tokens, \(Parallel.threads) threads\n")
    var table = TextTable("work", "seconds", "tokens/s")
    for measurement in measurements {
      table.add(
        measurement.work, measurement.seconds.formatted(digits: 3),
        Int(Double(batch.rows) / measurement.seconds).grouped)
    }
    print(table.text)
  }

  /// Tokens that any program can make again: a multiplicative hash of each token's number.
  private static func tokens(_ sequences: Int, _ context: Int, _ vocabulary: Int) -> [[Int32]] {
    (0..<sequences).map { sequence in
      (0..<context).map { position in
        let hash = UInt32(truncatingIfNeeded: sequence * context + position) &* 2_654_435_761
        return Int32(Int(hash) % vocabulary)
      }
    }
  }
}
