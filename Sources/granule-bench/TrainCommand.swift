import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleFiles
import GranuleReports
import GranuleTensors
import GranuleTraining

struct TrainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Measure the parts of a training step.",
    discussion: """
      A random dictionary is trained on batches of activations, at one granularity and at several, \
      with --dead latents declared dead. The table shows the milliseconds of each part of a step: the \
      least of all steps, because other work on the machine only adds.

      Activations are drawn like a language model's, from the directions that the dictionary starts \
      with. With --activations they are taken from files, in their order; the dictionary then starts \
      from random directions, and --warm-up steps come before the measurement. --curve prints losses \
      instead of times; benchmarks/train.py compares them with PyTorch's.

      EXAMPLE
        granule-bench train --d-model 576 --latents 16384 --k 64
        granule-bench train --activations acts/ --latents 16384 --k 64 \\
          --dead 0,2000 --json
      """)

  @Option(help: "Length of a drawn activation.")
  var dModel = 576
  @Option(help: "Number of latents, N.")
  var latents = 16384
  @Option(help: "Number of active latents per token.")
  var k = 64
  @Option(help: "Number of tokens per step.")
  var batch = 4096
  @Option(help: "Nested granularities, the last one N. Default: N/16, N/8, N/4, N/2, N.")
  var granularities: Granularities?
  @Option(help: "Numbers of latents to declare dead, ascending from 0.")
  var dead = Counts(values: [0, 2000])
  @Option(help: "Files or folder of activations. Default: drawn ones.")
  var activations: String?
  @Option(help: "Number of steps before the measurement.")
  var warmUp = 3
  @Option(help: "Number of steps to measure.")
  var steps = 10
  @Option(help: "Learning rate of Adam.")
  var learningRate = 2e-4
  @Option(help: "Decoupled weight decay.")
  var weightDecay = 0.0
  @Option(help: "Seed of the random number generator.")
  var seed: UInt64 = 1
  @Option(help: "Folder to write the first weights and the activations of the batches to.")
  var save: String?
  @Option(help: "Number of steps from one printed loss to the next, of --steps steps.")
  var curve: Int?
  @OptionGroup var result: ResultOptions

  func validate() throws {
    for (name, value) in [
      ("--d-model", dModel), ("--latents", latents), ("--batch", batch), ("--steps", steps),
      ("--curve", curve ?? 1),
    ] {
      try require(name, value, atLeast: 1)
    }
    try require("--k", k, in: 1...latents)
    try require("--warm-up", warmUp, atLeast: 0)
    try require("--dead", dead.values.last, in: 0...latents - 1)
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
    if let curve { return try printCurve(of: benchmark, nested, every: curve) }
    var rows: [TrainBenchmark.Row] = []
    let bar = ProgressBar(isQuiet: result.json)
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
    if result.json {
      print(StrictJSON.text(.array(rows.map(\.json)), indented: true))
    } else {
      show(rows, dModel: benchmark.dModel)
    }
  }

  private func printCurve(
    of benchmark: TrainBenchmark, _ granularities: [Int], every curve: Int
  ) throws {
    for point in try benchmark.curve(granularities: granularities, steps: steps, every: curve) {
      print(
        result.json
          ? StrictJSON.text([
            "step": JSONValue(point.step), "loss": JSONValue(point.loss),
            "gradient_norm": JSONValue(point.gradientNorm),
          ])
          : "step \(point.step)  loss \(point.loss.formatted(digits: 6))")
    }
  }

  private func show(_ rows: [TrainBenchmark.Row], dModel: Int) {
    print(
      "d_model \(dModel), \(latents.grouped) latents, k \(k), \(batch.grouped) tokens per step; "
        + "milliseconds, the least of \(steps) steps\n")
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
      "Repack is part of Adam. With gradient: the share of latents that are active in a batch; the "
        + "others' moments decay\nand move them all the same.")
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
