public import ArgumentParser
import Foundation
public import GranuleDictionary
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import GranuleTraining

struct HarvestCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "harvest",
    abstract: "Run a language model on text and write its activations.",
    discussion: """
      The model is a GGUF file of a Llama-family model, with its tokenizer. Text is files, or \
      folders, which stand for the .txt, .md and .rst files in them. Every file is cut into \
      sequences of --context tokens, each of which the model sees by itself.

      Position 0 of each sequence and end-of-text tokens are dropped: they are attention sinks, \
      whose norms dwarf all others; --keep-first-position keeps them.

      --out receives a folder layer-L for each layer, with safetensors shards (activations \
      [tokens, d_model], token_ids, sequence_starts), and manifest.json. Ctrl-C writes what was \
      computed and exits with 130; the same command goes on from there.

      EXAMPLE
        granule harvest --model SmolLM2-135M-Instruct.Q4_1.gguf --layer 10 --text books/ \\
          --tokens 1000000 --out activations/
        granule harvest --model model.gguf --layer 10,15 --hook mlp --text a.txt b.txt --out mlp/
      """)

  @Option(help: "The model, a GGUF file.")
  var model: String
  @Option(help: "Blocks to harvest at, separated by commas, in one pass.")
  var layer: LayerList
  @Option(parsing: .upToNextOption, help: "Text files, or folders of them.")
  var text: [String]
  @Option(help: "The folder to write to.")
  var out: String
  @Option(
    help: ArgumentHelp(
      "resid: the residual stream before the block; mlp, attention: what that part of the block "
        + "adds to it."))
  var hook = HookPoint.Site.residual
  @Option(help: "Tokens a sequence.")
  var context = 512
  @Option(help: "Stop after so many activations a layer. Default: when the text ends.")
  var tokens: Int?
  @Option(help: "float16 or float32.")
  var type = ActivationType.float16
  @Flag(help: "Keep position 0 of each sequence and end-of-text tokens.")
  var keepFirstPosition = false
  @Flag(help: "Print the outcome as JSON; no progress.")
  var json = false

  func run() async throws {
    Interruption.install()
    var options = HarvestConfiguration(model: model, layers: layer.values, text: text, out: out)
    options.site = hook
    options.context = context
    options.tokens = tokens
    options.type = type == .float16 ? .float16 : .float32
    options.keepsFirstPosition = keepFirstPosition
    let harvester = try ActivationHarvester(options)
    if !json { introduce(harvester) }

    var bar = ProgressBar(isQuiet: json)
    let start = Date()
    let before = harvester.tokens
    let outcome = try harvester.harvest(
      onProgress: { progress in
        bar.update(
          fraction: Double(progress.tokens) / Double(progress.total),
          "\(progress.tokens.grouped) of \(progress.total.grouped) tokens  "
            + "\(Int(progress.tokensPerSecond).grouped) tokens/s  "
            + "\(ProgressBar.duration(progress.secondsLeft)) left")
      }, shouldStop: { Interruption.isRequested })
    bar.finish()
    let seconds = Date().timeIntervalSince(start)
    if outcome == .interrupted {
      printError(
        "Interrupted with \(harvester.tokens.grouped) of \(harvester.total.grouped) tokens in "
          + "\(out); the same command goes on from there.")
      throw ExitCode(Interruption.exitCode)
    }
    if json {
      print(
        StrictJSON.text([
          "folders": .array(harvester.folders.map { .string($0) }),
          "tokens": JSONValue(harvester.tokens),
          "tokens_now": JSONValue(harvester.tokens - before), "seconds": JSONValue(seconds),
        ]))
      return
    }
    if let tokens, harvester.total < tokens {
      printError(
        "The text gives only \(harvester.total.grouped) of the \(tokens.grouped) tokens asked for.")
    }
    let now = harvester.tokens - before
    let rate = now > 0 ? ", \(Int(Double(now) / seconds).grouped) tokens/s" : ""
    print(
      "\(harvester.tokens.grouped) tokens of each layer are in "
        + "\(harvester.folders.joined(separator: ", ")) (\(ProgressBar.duration(seconds))\(rate))")
  }

  private func introduce(_ harvester: ActivationHarvester) {
    let shape = harvester.shape
    let files =
      harvester.textFileCount == 1 ? "1 text file" : "\(harvester.textFileCount) text files"
    let what =
      switch hook {
      case .residual: "the residual stream before"
      case .mlp: "the MLP's output of"
      case .attention: "the attention's output of"
      }
    let dropped =
      keepFirstPosition
      ? "Position 0 and end-of-text tokens are kept."
      : "Position 0 of each sequence and end-of-text tokens are dropped (attention sinks)."
    printError(
      """
      Harvesting \(what) block \(layer.values.map(String.init).joined(separator: ", ")) of \
      \(shape.name), d_model \(shape.dModel): \(harvester.total.grouped) tokens \
      from \(files), in sequences of \(context).
      \(dropped)
      """)
    if harvester.tokens > 0 {
      printError("\(harvester.tokens.grouped) tokens are there already.")
    }
  }
}

extension HookPoint.Site: ExpressibleByArgument {}

/// Element types that activations are written in.
enum ActivationType: String, CaseIterable, ExpressibleByArgument {
  case float16, float32
}

/// Layers on the command line: `10` or `10,15`.
struct LayerList: ExpressibleByArgument {
  let values: [Int]

  init?(argument: String) {
    let values = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
    guard !values.isEmpty, !values.contains(nil) else { return nil }
    self.values = values.compactMap { $0 }
  }
}
