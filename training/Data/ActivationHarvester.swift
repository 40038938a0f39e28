internal import Glibc
internal import GranuleDictionary
internal import GranuleErrors
internal import GranuleFiles
public import GranuleLanguageModel
internal import GranuleTensors

/// Runs a language model on text and writes what happens inside it: for each layer a folder
/// `OUT/layer-L` of safetensors shards with `activations` [tokens, d_model], `token_ids` [tokens] and
/// `sequence_starts`, the row at which each sequence begins.
///
/// How it goes on after any interruption: sequences are cut from the text in an order that depends
/// on nothing but the parameters; `OUT/manifest.json`, replaced after every shard, says which of them
/// are in shards on the disk.
public final class ActivationHarvester {
  /// Tokens that go through the model together, at most, but for a single sequence.
  static let batchTokensMax = 4096

  /// Where a harvest stands.
  public struct Progress: Sendable {
    /// Activations on the disk or about to be, for each layer.
    public var tokens: Int
    /// Activations when it is done.
    public var total: Int
    /// Rate of this call.
    public var tokensPerSecond: Double
    /// At that rate.
    public var secondsLeft: Double { Double(total - tokens) / tokensPerSecond }
  }

  /// How a call ended.
  public enum Outcome: Sendable, Equatable {
    /// All is on the disk.
    case finished
    /// Stopped as asked; everything computed so far is on the disk.
    case interrupted
  }

  /// What is harvested.
  public let configuration: HarvestConfiguration
  /// The model's shape.
  public var shape: LlamaConfiguration { model.configuration }
  /// Activations when all is done, for each layer.
  public var total: Int { text.total }
  /// Number of text files that there are; with `tokens` stated the last ones may not be needed.
  public var textFileCount: Int { text.fileCount }
  /// Activations on the disk, in each layer's folder.
  public var tokens: Int { manifest.tokens }
  /// The folders that activations are written to, in the order of the layers.
  public var folders: [String] {
    configuration.layers.map { "\(configuration.out)/\(HookPoint.folderName(layer: $0))" }
  }

  private let model: LanguageModel
  private let digest: String
  private let text: HarvestText
  private var manifest: HarvestManifest

  /// Reads model and text, and resumes an earlier harvest with the same parameters.
  ///
  /// - Throws: `TrainingError`, `FileError` if a file cannot be read, a parameter is out of
  ///   bounds, or the folder holds another harvest.
  public init(_ configuration: HarvestConfiguration) throws {
    self.configuration = configuration
    let file = try GGUFFile(path: configuration.model)
    let bytes = file.file
    try configuration.validate(for: LlamaConfiguration(file))
    let tokenizer = try Tokenizer(file)
    let weights = try LlamaWeights(file)
    guard tokenizer.vocabulary <= weights.configuration.vocabulary else {
      throw TrainingError(
        .mismatch,
        "\(configuration.model): the tokenizer has \(tokenizer.vocabulary) tokens, the model only "
          + "\(weights.configuration.vocabulary)")
    }
    model = LanguageModel(weights)
    digest = Digest.sha256(bytes)
    text = try HarvestText(configuration, tokenizer: tokenizer)
    manifest = HarvestManifest(
      parameters: Self.parameters(configuration, weights.configuration, tokenizer, text, digest))
    try manifest.resume(from: configuration.out)
    try checkShards()
  }

  /// What decides the activations, for the manifest.
  private static func parameters(
    _ configuration: HarvestConfiguration, _ shape: LlamaConfiguration, _ tokenizer: Tokenizer,
    _ text: HarvestText, _ digest: String
  ) -> [JSONValue.Member] {
    [
      .init(
        "model",
        .object([
          .init(
            "file", .string(configuration.model.split(separator: "/").last.map(String.init) ?? "")),
          .init("sha256", .string(digest)), .init("name", .string(shape.name)),
        ])),
      .init("layers", .array(configuration.layers.map { JSONValue($0) })),
      .init("hook", .string(configuration.site.rawValue)),
      .init("d_model", JSONValue(shape.dModel)),
      .init("context", JSONValue(configuration.context)),
      .init("tokens_asked", configuration.tokens.map { JSONValue($0) } ?? .null),
      .init("type", .string(configuration.type == .float16 ? "float16" : "float32")),
      .init("keeps_first_position", .bool(configuration.keepsFirstPosition)),
      .init(
        "tokenizer",
        .object([
          .init("pre", .string(tokenizer.preTokenizerName)),
          .init("vocabulary", JSONValue(tokenizer.vocabulary)),
          .init("end_tokens", .array(tokenizer.endTokens.sorted().map { JSONValue(Int($0)) })),
        ])),
      .init("text", text.json),
    ]
  }

  /// Computes and writes what is not on the disk yet.
  ///
  /// - Parameters:
  ///   - onProgress: called after each batch.
  ///   - shouldStop: asked after each batch; what was computed is then written.
  /// - Throws: `FileError` with the system's reason, such as a full disk; shards that were
  ///   written before are kept, and the next call goes on after them. `TrainingError` if float16
  ///   cannot hold a value, or another process harvests into the folder.
  public func harvest(
    onProgress: (Progress) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws -> Outcome {
    if manifest.isComplete { return .finished }
    for folder in folders { try Folder.make(folder) }
    let lock = try FolderLock(configuration.out)
    defer { withExtendedLifetime(lock) {} }
    // Another process may have gone on meanwhile.
    try manifest.resume(from: configuration.out)
    try checkShards()
    if manifest.isComplete { return .finished }
    try manifest.write(to: configuration.out)
    var open = openShards()
    let atStart = manifest.tokens
    let start = ContinuousClock.now
    while open.next < text.sequences.count {
      try compute(text.batch(from: open.next, tokens: Self.batchTokensMax), into: &open)
      let done = manifest.tokens + open.tokenIDs.count
      onProgress(
        Progress(
          tokens: done, total: total,
          tokensPerSecond: Double(done - atStart) / ((ContinuousClock.now - start) / .seconds(1))))
      if open.next < text.sequences.count, shouldStop() {
        try finish(&open, endingBefore: open.next)
        return .interrupted
      }
    }
    try finish(&open, endingBefore: text.sequences.count)
    return .finished
  }

  /// The shards that are being filled, one a layer.
  private struct OpenShards {
    let shards: [HarvestShard]
    let points: [HookPoint]
    /// Rows that a shard has at most, but for a shard of one sequence.
    let rowsMax: Int
    var tokenIDs: [Int32] = []
    /// The row at which each sequence begins.
    var starts: [Int64] = []
    /// The first sequence in the shards, and the next to compute.
    var first: Int
    var next: Int
  }

  private func openShards() -> OpenShards {
    let rowsMax = max(
      1, configuration.shardBytes / (shape.dModel * configuration.type.byteCount))
    return OpenShards(
      shards: configuration.layers.map { _ in
        HarvestShard(
          dModel: shape.dModel, type: configuration.type, rowsExpected: min(rowsMax, total))
      },
      points: configuration.layers.map { HookPoint.block($0, configuration.site) },
      rowsMax: rowsMax, first: manifest.nextSequence, next: manifest.nextSequence)
  }

  /// Runs the model on the next sequences and appends their activations to the open shards, which are
  /// written when they are full.
  private func compute(_ batchTokens: [[Int32]], into open: inout OpenShards) throws {
    let batch = try TokenBatch(batchTokens, for: shape)
    let captured = model.activations(at: Set(open.points), of: batch)
    for (offset, tokens) in batchTokens.enumerated() {
      let sequence = text.sequences[open.next]
      if !open.tokenIDs.isEmpty, open.tokenIDs.count + sequence.rows > open.rowsMax {
        try finish(&open, endingBefore: open.next)
      }
      open.starts.append(Int64(open.tokenIDs.count))
      let kept = text.kept(tokens, of: sequence)
      open.tokenIDs += kept.map { tokens[$0] }
      for (point, shard) in zip(open.points, open.shards) {
        guard let activations = captured[point] else {
          throw TrainingError(.mismatch, "\(shape.name) has no \(point)")
        }
        for position in kept {
          let row = activations.pointer + (batch.starts[offset] + position) * shape.dModel
          guard shard.append(row) else { throw unstorable(point, position) }
        }
      }
      open.next += 1
    }
  }

  /// Writes the open shards, and the manifest that names them.
  private func finish(_ open: inout OpenShards, endingBefore end: Int) throws {
    guard end > open.first else { return }
    let name = Self.shardName(manifest.shards.count)
    for (number, shard) in open.shards.enumerated() {
      try shard.write(
        tokenIDs: open.tokenIDs, sequenceStarts: open.starts,
        metadata: metadata(layer: configuration.layers[number]),
        folder: folders[number], name: name)
      shard.removeAll()
    }
    manifest.shards.append(
      .init(file: name, sequences: open.first..<end, tokens: open.tokenIDs.count))
    manifest.isComplete = end == text.sequences.count
    try manifest.write(to: configuration.out)
    open.tokenIDs.removeAll(keepingCapacity: true)
    open.starts.removeAll(keepingCapacity: true)
    open.first = end
  }

  private static func shardName(_ number: Int) -> String {
    let digits = String(number)
    return "shard-\(String(repeating: "0", count: max(0, 5 - digits.count)))\(digits).safetensors"
  }

  private func metadata(layer: Int) -> [String: String] {
    [
      "model": shape.name, "model_sha256": digest, "layer": String(layer),
      "hook": HookPoint.block(layer, configuration.site).name,
      "context": String(configuration.context),
    ]
  }

  private func unstorable(_ point: HookPoint, _ position: Int) -> TrainingError {
    let advice = configuration.type == .float16 ? "; harvest as float32" : ""
    return TrainingError(
      .unusable(input: point.name),
      "\(point): an activation at position \(position) of a sequence "
        + "does not fit \(configuration.type.safetensorsName)\(advice)")
  }

  /// Sees that the shards that the manifest names are there, as long as it says.
  private func checkShards() throws {
    for folder in folders {
      for shard in manifest.shards {
        let tensor = try SafetensorsFile(FileBytes.map("\(folder)/\(shard.file)"))
          .tensor("activations")
        guard tensor.shape == [shard.tokens, shape.dModel] else {
          throw tensor.fault(
            "has shape \(tensor.shape), the manifest needs [\(shard.tokens), \(shape.dModel)]")
        }
      }
      if manifest.shards.isEmpty, Folder.isFolder(folder),
        access("\(configuration.out)/\(HarvestManifest.fileName)", F_OK) != 0,
        let stray = try Folder.entries(of: folder).first(where: { !$0.hasPrefix(".") })
      {
        throw TrainingError(
          .alreadyExists(path: folder),
          "\(folder): holds \(stray), but there is no manifest of a harvest")
      }
    }
  }
}
