import ArgumentParser
import Foundation
import GranuleCommandLine
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleReports
import GranuleRepository
import GranuleTensors
import GranuleTraining

struct InspectCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show a dictionary's architecture, granularities, origin and memory.",
    discussion: """
      The input may be a dictionary folder of Granule or SAELens, a finished run, or a published \
      version, whose digests are verified. Memory is what a server needs: weights in float32, and the \
      encoder's copy in 8 bits that encoding screens with. For an ordered dictionary the output \
      includes each latent's index before it was ordered, all of them with --json. For a core, or a \
      dictionary trained with one, it includes what the distillation measured for each latent of the \
      core: attribution, frequency, and the number of cycles that selected it.

      EXAMPLE
        granule inspect runs/first
        granule inspect models/smollm2/1
        granule inspect my-saelens-folder --json
      """)

  @Argument(
    help: ArgumentHelp(
      "Dictionary folder, finished run, or REPOSITORY/NAME/VERSION.", valueName: "dictionary"))
  var path: String
  @OptionGroup var result: ResultOptions

  func run() async throws {
    let (dictionary, files, sha256) = try read()
    let bytes = try SparseEncoder(dictionary).residentBytes
    let companions = try files.companion.map { try SafetensorsFile($0).tensors } ?? []
    if result.json {
      print(
        StrictJSON.text(
          Self.json(dictionary, bytes, companions: companions, sha256: sha256), indented: true))
    } else {
      show(dictionary, bytes, companions: companions, sha256: sha256)
    }
  }

  /// The dictionary, its files, and the digest of its weights if it is published.
  private func read() throws -> (SparseAutoencoder, DictionaryFiles, sha256: String?) {
    let parts = URL(fileURLWithPath: path).standardizedFileURL.pathComponents
    if parts.count > 3, let version = UInt64(parts[parts.count - 1]) {
      let name = parts[parts.count - 2]
      let root = "/" + parts[1..<parts.count - 2].joined(separator: "/")
      let repository = ModelRepository(path: root)
      if ModelRepository.isValidName(name), try repository.versions(of: name).contains(version) {
        let published = try repository.load(name, version: version)
        return (published.dictionary, try DictionaryFiles(folder: path), published.sha256)
      }
    }
    if let name = parts.last, parts.count > 2, ModelRepository.isValidName(name) {
      let root = "/" + parts[1..<parts.count - 1].joined(separator: "/")
      let versions = try ModelRepository(path: root).versions(of: name)
      if let last = versions.last {
        throw CommandError.input(
          "\(path) is a published model with \(versions.count) versions: name one, such as "
            + "\(path)/\(last)")
      }
    }
    let files = try DictionaryFiles(folder: try DictionaryLocation(path).folder)
    return (try SparseAutoencoder(files: files), files, nil)
  }

  private func show(
    _ dictionary: SparseAutoencoder, _ bytes: SparseEncoder.ResidentBytes, companions: [Tensor],
    sha256: String?
  ) {
    print(path)
    func line(_ name: String, _ value: String) {
      print("  " + name.padding(toLength: 16, withPad: " ", startingAt: 0) + value)
    }
    line("architecture", dictionary.architecture)
    line("d_model", dictionary.dModel.grouped)
    line("latents", dictionary.latents.grouped)
    line("selection", dictionary.selectionDescription)
    line("normalisation", dictionary.inputNormalization.rawValue)
    line("b_dec", dictionary.subtractsDecoderBias ? "subtracted from inputs" : "output only")
    let provenance = dictionary.provenance
    line("language model", provenance.languageModel.isEmpty ? "unknown" : provenance.languageModel)
    line("hook", provenance.hook.isUnknown ? "unknown" : provenance.hook.name)
    line("trained on", provenance.tokens.map { "\($0.grouped) tokens" } ?? "unknown")
    if let order = provenance.orderedBy { line("ordered by", order) }
    if let order = dictionary.latentOrder {
      let first = order.prefix(8).map(String.init).joined(separator: ", ")
      line("latent order", first + (order.count > 8 ? " … (indices before ordering)" : ""))
    }
    if let scale = provenance.activationScale {
      line("scale", "\(scale.formatted(digits: 6)), folded into the weights")
    }
    if let sha256 { line("sha256", "\(sha256), verified") }
    line(
      "companion",
      companions.isEmpty
        ? "none" : companions.map { "\($0.name) \($0.shape)" }.joined(separator: ", "))

    print()
    if dictionary.granularities.isEmpty {
      print("No granularities are listed.\n")
    } else {
      print(dictionary.granularityTable.text)
    }

    if let core = dictionary.core { showCore(core) }

    var memory = TextTable("memory", "bytes", "MiB", "share of encoder")
    for (name, count) in [
      ("encoder", bytes.encoder), ("encoder, 8 bits", bytes.quantizedEncoder),
      ("decoder", bytes.decoder), ("others", bytes.others), ("total", bytes.total),
    ] {
      memory.add(
        name, count.grouped, (Double(count) / 1_048_576).formatted(digits: 2),
        (Double(count) / Double(bytes.encoder)).formatted(digits: 3))
    }
    print(memory.text, terminator: "")
  }

  private func showCore(_ core: DistilledCore) {
    print("The core, the first \(core.latents.grouped) latents, after \(core.cycles) cycles:\n")
    var table = TextTable("latent", "attribution", "frequency", "selected")
    let shown = 20
    for latent in 0..<min(core.latents, shown) {
      table.add(
        "\(latent)", Double(core.attributions[latent]).formatted(digits: 4),
        "\((100 * Double(core.frequencies[latent])).formatted(digits: 2)) %",
        "\(core.selections[latent])")
    }
    print(table.text, terminator: "")
    if core.latents > shown {
      print("… and \((core.latents - shown).grouped) more; --json prints all")
    }
    print()
  }

  private static func json(_ core: DistilledCore) -> JSONValue {
    let latents = (0..<core.latents).map { latent -> JSONValue in
      [
        "attribution": JSONValue(Double(core.attributions[latent])),
        "frequency": JSONValue(Double(core.frequencies[latent])),
        "selections": JSONValue(core.selections[latent]),
      ]
    }
    return ["cycles": JSONValue(core.cycles), "latents": .array(latents)]
  }

  private static func json(
    _ dictionary: SparseAutoencoder, _ bytes: SparseEncoder.ResidentBytes, companions: [Tensor],
    sha256: String?
  ) -> JSONValue {
    func known(_ text: String) -> JSONValue { text.isEmpty ? .null : .string(text) }
    let provenance = dictionary.provenance
    var rule: [JSONValue.Member] = [.init("name", .string(dictionary.selectionRule.name))]
    if case .topk(let k) = dictionary.selectionRule { rule.append(.init("k", JSONValue(k))) }
    return [
      "architecture": .string(dictionary.architecture), "d_model": JSONValue(dictionary.dModel),
      "latents": JSONValue(dictionary.latents), "selection_rule": .object(rule),
      "input_normalization": .string(dictionary.inputNormalization.rawValue),
      "subtracts_decoder_bias": .bool(dictionary.subtractsDecoderBias),
      "granularities": dictionary.granularitiesJSON,
      "provenance": [
        "language_model": known(provenance.languageModel), "hook": known(provenance.hook.name),
        "tokens": provenance.tokens.map { JSONValue($0) } ?? .null,
        "ordered_by": provenance.orderedBy.map { .string($0) } ?? .null,
        "activation_scale": provenance.activationScale.map { JSONValue($0) } ?? .null,
      ],
      "latent_order": dictionary.latentOrder.map { .array($0.map { JSONValue($0) }) } ?? .null,
      "core": dictionary.core.map(Self.json) ?? .null,
      "sha256": sha256.map { .string($0) } ?? .null,
      "companion_tensors": .array(
        companions.map {
          ["name": .string($0.name), "shape": .array($0.shape.map { JSONValue($0) })]
        }),
      "resident_bytes": [
        "encoder": JSONValue(bytes.encoder), "quantized_encoder": JSONValue(bytes.quantizedEncoder),
        "decoder": JSONValue(bytes.decoder), "others": JSONValue(bytes.others),
        "total": JSONValue(bytes.total),
      ],
      "quantized_share_of_encoder": JSONValue(
        Double(bytes.quantizedEncoder) / Double(bytes.encoder)),
    ]
  }
}

extension SparseAutoencoder {
  /// SAELens's name of the architecture.
  fileprivate var architecture: String {
    switch selectionRule {
    case .topk: "topk"
    case .threshold: "jumprelu"
    case .relu: "standard"
    }
  }

  fileprivate var selectionDescription: String {
    switch selectionRule {
    case .topk(let k): "the \(k) largest positive pre-activations"
    case .threshold(let thresholds):
      "pre-activations above each latent's threshold, \(thresholds.min() ?? 0) … "
        + "\(thresholds.max() ?? 0)"
    case .relu: "positive pre-activations"
    }
  }
}
