import ArgumentParser
import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleTensors
import GranuleTraining

struct BenchTrainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Measure the parts of a training step.",
    discussion: """
      Trains a random dictionary on batches of activations, at one granularity and at several, with \
      as many dead latents as asked for, and reports the milliseconds of each part of a step: the \
      least of all steps, since other work on the machine only adds.

      Activations are drawn like a language model's from directions that the dictionary starts with, \
      or taken from files, in their order; then the dictionary starts from random directions and is \
      trained for --warm-up steps before the measurement. --curve prints the loss of each logged \
      step instead; benchmarks/train.py compares it with PyTorch's.

      EXAMPLE
        granule bench train --d-model 576 --latents 16384 --k 64
        granule bench train --activations acts/ --latents 16384 --k 64 --dead 0,2000 --json
      """)

  @Option(help: "Length of an activation, of drawn activations.")
  var dModel = 576
  @Option(help: "Number of latents N.")
  var latents = 16384
  @Option(help: "Active latents a token.")
  var k = 64
  @Option(help: "Tokens a step.")
  var batch = 4096
  @Option(help: "The nested granularities, the last N. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Numbers of latents that are declared dead, ascending from 0.")
  var dead = Counts(values: [0, 2000])
  @Option(help: "Files or a folder of activations instead of drawn ones.")
  var activations: String?
  @Option(help: "Steps before the measurement.")
  var warmUp = 3
  @Option(help: "Steps that are measured.")
  var steps = 10
  @Option(help: "Adam's learning rate.")
  var learningRate = 2e-4
  @Option(help: "Decoupled weight decay.")
  var weightDecay = 0.0
  @Option(help: "Of the random numbers.")
  var seed: UInt64 = 1
  @Option(help: "Write the first weights and the batches' activations into this folder.")
  var save: String?
  @Option(help: "Print losses of every so many steps, of --steps steps, instead of times.")
  var curve: Int?
  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    for (name, value) in [
      ("--d-model", dModel), ("--latents", latents), ("--k", k), ("--batch", batch),
      ("--steps", steps), ("--curve", curve ?? 1),
    ] where value < 1 {
      throw ValidationError("\(name) is \(value), at least 1 is needed")
    }
    if k > latents { throw ValidationError("--k must be in 1 … \(latents)") }
    if warmUp < 0 { throw ValidationError("--warm-up must be at least 0") }
    if let last = dead.values.last, last >= latents {
      throw ValidationError("--dead must be less than the \(latents) latents")
    }
    if let granularities, granularities.values.last != latents {
      throw ValidationError("--granularities must end with the \(latents) latents")
    }
  }

  func run() async throws {
    let benchmark = try TrainBenchmark(
      dModel: dModel, latents: latents, k: k, batch: batch, activations: activations, seed: seed,
      learningRate: learningRate, weightDecay: weightDecay)
    if let save { try benchmark.write(to: save) }
    let nested =
      granularities?.values ?? [16, 8, 4, 2, 1].map { latents / $0 }.filter { $0 > 0 }
    if let curve {
      for point in try benchmark.curve(granularities: nested, steps: steps, every: curve) {
        print(
          json
            ? StrictJSON.text([
              "step": JSONValue(point.step), "loss": JSONValue(point.loss),
              "gradient_norm": JSONValue(point.gradientNorm),
            ])
            : "step \(point.step)  loss \(point.loss.formatted(digits: 6))")
      }
      return
    }
    var rows: [TrainBenchmark.Row] = []
    var bar = ProgressBar(isQuiet: json)
    for count in dead.values {
      for granularities in nested.count > 1 ? [[latents], nested] : [nested] {
        bar.update(
          fraction: Double(rows.count) / Double(2 * dead.values.count),
          "\(granularities.count) granularities, \(count) dead latents")
        rows.append(
          try benchmark.measure(
            granularities: granularities, dead: count, warmUp: warmUp, steps: steps))
      }
    }
    bar.finish()
    if json {
      print(StrictJSON.text(.array(rows.map(\.json)), indented: true))
      return
    }
    print(
      "d_model \(benchmark.dModel), \(latents.grouped) latents, k \(k), \(batch.grouped) tokens a "
        + "step; milliseconds, the least of \(steps) steps\n")
    var table = TextTable(
      "granularities", "dead", "step", "encode", "decode", "auxiliary", "gradients", "Adam",
      "repack", "tokens/s", "with gradient")
    for row in rows {
      table.add(
        "\(row.granularities)", row.dead.grouped, row.step.formatted(digits: 1),
        row.encode.formatted(digits: 1), row.decode.formatted(digits: 1),
        row.auxiliary.formatted(digits: 1), row.gradients.formatted(digits: 1),
        row.adam.formatted(digits: 1), row.repack.formatted(digits: 1),
        Int(1000 * Double(batch) / row.step).grouped, row.shareWithGradient.formatted(digits: 3))
    }
    print(table.text)
    print(
      "Repacking is done within Adam's pass. With gradient: the share of latents that are active in "
        + "a batch;\nthe others' moments decay and move them all the same.")
  }
}

/// Counts on the command line, ascending: `0,2000`.
struct Counts: ExpressibleByArgument {
  let values: [Int]

  var defaultValueDescription: String { values.map(String.init).joined(separator: ",") }

  init(values: [Int]) { self.values = values }

  init?(argument: String) {
    let values = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
    guard !values.isEmpty, !values.contains(nil) else { return nil }
    self.values = values.compactMap { $0 }
    guard zip(self.values, self.values.dropFirst()).allSatisfy({ $0 < $1 }), self.values[0] >= 0
    else { return nil }
  }
}

extension TrainBenchmark.Row {
  fileprivate var json: JSONValue {
    [
      "granularities": JSONValue(granularities), "dead": JSONValue(dead), "ms": JSONValue(step),
      "encode_ms": JSONValue(encode), "decode_ms": JSONValue(decode),
      "auxiliary_ms": JSONValue(auxiliary), "gradients_ms": JSONValue(gradients),
      "adam_ms": JSONValue(adam), "repack_ms": JSONValue(repack),
      "tokens_per_second": JSONValue(tokensPerSecond),
      "share_with_gradient": JSONValue(shareWithGradient), "loss": JSONValue(loss),
    ]
  }
}
