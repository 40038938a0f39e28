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

  /// A stretch of a file's tokens.
  private struct Sequence {
    var file: Int
    var range: Range<Int>
    /// Activations that it gives, at most.
    var rows: Int
  }

  /// What is harvested.
  public let configuration: HarvestConfiguration
  /// The model's shape.
  public var shape: LlamaConfiguration { model.configuration }
  /// Activations when all is done, for each layer.
  public let total: Int
  /// Number of text files that there are; with `tokens` stated the last ones may not be needed.
  public let textFileCount: Int
  /// Activations on the disk, in each layer's folder.
  public var tokens: Int { manifest.tokens }
  /// The folders that activations are written to, in the order of the layers.
  public var folders: [String] {
    configuration.layers.map { "\(configuration.out)/\(HookPoint.folderName(layer: $0))" }
  }

  private let model: LanguageModel
  private let tokenizer: Tokenizer
  private let digest: String
  private let fileTokens: [[Int32]]
  private let sequences: [Sequence]
  private var manifest: HarvestManifest

  /// Reads model and text, and takes up an earlier harvest with the same parameters.
  ///
  /// - Throws: `TrainingError`, `FileError` where a file cannot be read, a parameter is out of
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
        "\(configuration.model): the tokenizer has \(tokenizer.vocabulary) tokens, the model only "
          + "\(weights.configuration.vocabulary)")
    }
    model = LanguageModel(weights)
    self.tokenizer = tokenizer
    digest = Digest.sha256(bytes)

    let paths = try configuration.textFiles()
    textFileCount = paths.count
    var texts: [JSONValue] = []
    var fileTokens: [[Int32]] = []
    var sequences: [Sequence] = []
    var total = 0
    for (number, path) in paths.enumerated() {
      let text = try FileBytes.read(path)
      texts.append(
        .object([
          .init("file", .string(path)), .init("bytes", JSONValue(text.bytes.count)),
          .init("sha256", .string(Digest.sha256(text))),
        ]))
      let limit = configuration.tokens ?? .max
      guard total < limit else { continue }
      let tokens = tokenizer.encode(text.bytes)
      fileTokens.append(tokens)
      // A beginning token takes a place of each sequence.
      let length = configuration.context - (tokenizer.beginningToken == nil ? 0 : 1)
      for start in stride(from: 0, to: tokens.count, by: length) where total < limit {
        let range = start..<min(start + length, tokens.count)
        let all = Self.kept(
          Self.sequence(tokens[range], tokenizer), configuration, tokenizer.endTokens)
        let rows = min(all.count, limit - total)
        guard rows > 0 else { continue }
        sequences.append(Sequence(file: number, range: range, rows: rows))
        total += rows
      }
    }
    guard total > 0 else { throw TrainingError("the text gives no activation") }
    self.fileTokens = fileTokens
    self.sequences = sequences
    self.total = total
    manifest = HarvestManifest(parameters: [
      .init(
        "model",
        .object([
          .init(
            "file", .string(configuration.model.split(separator: "/").last.map(String.init) ?? "")),
          .init("sha256", .string(digest)), .init("name", .string(weights.configuration.name)),
        ])),
      .init("layers", .array(configuration.layers.map { JSONValue($0) })),
      .init("hook", .string(configuration.site.rawValue)),
      .init("d_model", JSONValue(weights.configuration.dModel)),
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
      .init("text", .array(texts)),
    ])
    try manifest.resume(from: configuration.out)
    try checkShards()
  }

  /// Computes and writes what is not on the disk yet.
  ///
  /// - Parameters:
  ///   - onProgress: called after each batch.
  ///   - shouldStop: asked after each batch; what was computed is then written.
  /// - Throws: `FileError` with the system's reason, such as a full disk; shards that were
  ///   written before are kept, and the next call goes on after them. `TrainingError` where float16
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
    let dModel = shape.dModel
    let shardRows = max(1, configuration.shardBytes / (dModel * configuration.type.byteCount))
    let shards = configuration.layers.map { _ in
      HarvestShard(
        dModel: dModel, type: configuration.type, rowsExpected: min(shardRows, total))
    }
    let points = configuration.layers.map { HookPoint.block($0, configuration.site) }
    var tokenIDs: [Int32] = []
    var starts: [Int64] = []
    var firstOfShard = manifest.nextSequence
    let atStart = manifest.tokens
    let clock = ContinuousClock()
    let start = clock.now

    func finishShard(endingBefore end: Int) throws {
      guard end > firstOfShard else { return }
      let name = Self.shardName(manifest.shards.count)
      for (number, shard) in shards.enumerated() {
        try shard.write(
          tokenIDs: tokenIDs, sequenceStarts: starts,
          metadata: metadata(layer: configuration.layers[number]),
          folder: folders[number], name: name)
        shard.removeAll()
      }
      manifest.shards.append(
        .init(file: name, sequences: firstOfShard..<end, tokens: tokenIDs.count))
      manifest.isComplete = end == sequences.count
      try manifest.write(to: configuration.out)
      tokenIDs.removeAll(keepingCapacity: true)
      starts.removeAll(keepingCapacity: true)
      firstOfShard = end
    }

    var next = firstOfShard
    while next < sequences.count {
      let first = next
      var batchTokens: [[Int32]] = []
      var count = 0
      while next < sequences.count {
        let tokens = tokens(of: sequences[next])
        guard batchTokens.isEmpty || count + tokens.count <= Self.batchTokensMax else { break }
        count += tokens.count
        batchTokens.append(tokens)
        next += 1
      }
      let batch = try TokenBatch(batchTokens, for: shape)
      let captured = model.activations(at: Set(points), of: batch)
      for (offset, tokens) in batchTokens.enumerated() {
        let sequence = sequences[first + offset]
        if !tokenIDs.isEmpty, tokenIDs.count + sequence.rows > shardRows {
          try finishShard(endingBefore: first + offset)
        }
        starts.append(Int64(tokenIDs.count))
        let kept = Self.kept(tokens, configuration, tokenizer.endTokens).prefix(sequence.rows)
        tokenIDs += kept.map { tokens[$0] }
        for (point, shard) in zip(points, shards) {
          guard let activations = captured[point] else { preconditionFailure("\(point)") }
          for position in kept {
            let row = activations.pointer + (batch.starts[offset] + position) * dModel
            guard shard.append(row) else { throw unstorable(point, sequence, position) }
          }
        }
      }
      let elapsed = (clock.now - start).components
      let seconds = Double(elapsed.seconds) + Double(elapsed.attoseconds) * 1e-18
      let done = manifest.tokens + tokenIDs.count
      onProgress(
        Progress(
          tokens: done, total: total, tokensPerSecond: Double(done - atStart) / seconds))
      if next < sequences.count, shouldStop() {
        try finishShard(endingBefore: next)
        return .interrupted
      }
    }
    try finishShard(endingBefore: sequences.count)
    return .finished
  }

  private static func shardName(_ number: Int) -> String {
    let digits = String(number)
    return "shard-\(String(repeating: "0", count: max(0, 5 - digits.count)))\(digits).safetensors"
  }

  /// Positions of a sequence whose activations are written.
  private static func kept(
    _ tokens: [Int32], _ configuration: HarvestConfiguration, _ endTokens: Set<Int32>
  ) -> [Int] {
    if configuration.keepsFirstPosition { return Array(tokens.indices) }
    return tokens.indices.dropFirst().filter { !endTokens.contains(tokens[$0]) }
  }

  /// A sequence's tokens, the beginning token with them.
  private static func sequence(_ tokens: ArraySlice<Int32>, _ tokenizer: Tokenizer) -> [Int32] {
    (tokenizer.beginningToken.map { [$0] } ?? []) + tokens
  }

  private func tokens(of sequence: Sequence) -> [Int32] {
    Self.sequence(fileTokens[sequence.file][sequence.range], tokenizer)
  }

  private func metadata(layer: Int) -> [String: String] {
    [
      "model": shape.name, "model_sha256": digest, "layer": String(layer),
      "hook": HookPoint.block(layer, configuration.site).name,
      "context": String(configuration.context),
    ]
  }

  private func unstorable(
    _ point: HookPoint, _ sequence: Sequence, _ position: Int
  ) -> TrainingError {
    let advice = configuration.type == .float16 ? "; harvest as float32" : ""
    return TrainingError(
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
        throw TrainingError("\(folder): holds \(stray), but there is no manifest of a harvest")
      }
    }
  }
}
