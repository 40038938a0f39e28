public import ArgumentParser
import Foundation
public import GranuleDictionary
import GranuleCommandLine
import GranuleFiles
import GranuleLanguageModel
import GranuleReports
import GranuleTensors
import GranuleTraining

struct HarvestCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "harvest",
    abstract: "Run a language model on text and write its activations.",
    discussion: """
      The model is a GGUF file of a Llama-family model, with its tokenizer. A folder of text stands \
      for the .txt, .md and .rst files in it. Every file is cut into sequences of --context tokens, \
      and the model sees each sequence on its own.

      Position 0 of each sequence and end-of-text tokens are dropped, because they are attention sinks \
      whose norms dwarf all others; --keep-first-position keeps them.

      The output is a folder layer-L for each layer, with safetensors shards (activations \
      [tokens, d_model], token_ids, sequence_starts) and manifest.json. Ctrl-C writes the activations \
      computed so far and exits with 130; the same command continues from there.

      EXAMPLE
        granule harvest --model SmolLM2-135M-Instruct.Q4_1.gguf --layer 10 \\
          --text books/ --tokens 1000000 --out activations/
        granule harvest --model model.gguf --layer 10,15 --hook mlp \\
          --text a.txt b.txt --out mlp/
      """)

  @Option(help: "GGUF file of the language model.")
  var model: String
  @Option(help: "Blocks to harvest at in one pass, separated by commas.")
  var layer: LayerList
  @Option(parsing: .upToNextOption, help: "Text files, or folders of them.")
  var text: [String]
  @Option(help: "Folder to write to.")
  var out: String
  @Option(
    help: ArgumentHelp(
      "Place in the block: resid is the residual stream before it; mlp and attention are what that "
        + "part of the block adds to the stream."))
  var hook = HookPoint.Site.residual
  @Option(help: "Number of tokens per sequence.")
  var context = 512
  @Option(help: "Number of activations to write per layer. Default: those of the whole text.")
  var tokens: Int?
  @Option(help: "Number format of the activations: float16 or float32.")
  var type = ActivationType.float16
  @Flag(help: "Keep position 0 of each sequence and end-of-text tokens.")
  var keepFirstPosition = false
  @OptionGroup var result: ResultOptions

  func run() async throws {
    Interruption.install()
    var options = HarvestConfiguration(model: model, layers: layer.values, text: text, out: out)
    options.site = hook
    options.context = context
    options.tokens = tokens
    options.type = type == .float16 ? .float16 : .float32
    options.keepsFirstPosition = keepFirstPosition
    let harvester = try ActivationHarvester(options)
    if !result.json { introduce(harvester) }

    let bar = ProgressBar(isQuiet: result.json)
    let start = Date()
    let before = harvester.tokens
    let outcome = try harvester.harvest(
      onProgress: { progress in
        bar.update(
          fraction: Double(progress.tokens) / Double(progress.total),
          "\(progress.tokens.grouped) of \(progress.total.grouped) tokens  "
            + "\(Int(progress.tokensPerSecond).grouped) tokens/s  "
            + "\(progress.secondsLeft.duration) left")
      }, shouldStop: { Interruption.isRequested })
    bar.finish()
    if outcome == .interrupted {
      throw CommandError.interrupted(
        "Interrupted with \(harvester.tokens.grouped) of \(harvester.total.grouped) tokens in "
          + "\(out); the same command continues from there.")
    }
    report(harvester, before: before, seconds: Date().timeIntervalSince(start))
  }

  private func report(_ harvester: ActivationHarvester, before: Int, seconds: Double) {
    let now = harvester.tokens - before
    if result.json {
      print(
        StrictJSON.text([
          "folders": .array(harvester.folders.map { .string($0) }),
          "tokens": JSONValue(harvester.tokens), "tokens_now": JSONValue(now),
          "seconds": JSONValue(seconds),
        ]))
      return
    }
    if let tokens, harvester.total < tokens {
      printError(
        "The text gives only \(harvester.total.grouped) of the \(tokens.grouped) tokens asked for.")
    }
    let rate = now > 0 ? ", \(Int(Double(now) / seconds).grouped) tokens/s" : ""
    print(
      "\(harvester.tokens.grouped) tokens of each layer are in "
        + "\(harvester.folders.joined(separator: ", ")) (\(seconds.duration)\(rate))")
  }

  private func introduce(_ harvester: ActivationHarvester) {
    let shape = harvester.shape
    let files =
      harvester.textFileCount == 1 ? "1 text file" : "\(harvester.textFileCount) text files"
    let place =
      switch hook {
      case .residual: "the residual stream before"
      case .mlp: "the MLP output of"
      case .attention: "the attention output of"
      }
    let dropped =
      keepFirstPosition
      ? "Position 0 and end-of-text tokens are kept."
      : "Position 0 of each sequence and end-of-text tokens are dropped (attention sinks)."
    printError(
      """
      Harvesting \(place) block \(layer.values.map(String.init).joined(separator: ", ")) of \
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

/// The number format of activations, on the command line.
enum ActivationType: String, CaseIterable, ExpressibleByArgument {
  case float16, float32
}
