internal import Glibc
internal import GranuleErrors
internal import GranuleFiles
internal import GranuleTensors

/// `OUT/manifest.json`: what was harvested from what, and which shards are on the disk.
struct HarvestManifest {
  static let fileName = "manifest.json"
  /// The longest manifest that is read, in bytes.
  static let bytesMax = 256 << 20
  /// Tokens of a shard: beyond any, and small enough that the sum of all fits 63 bits.
  private static let shardTokensMax = 1 << 32

  /// A file that is there whole in every layer's folder.
  struct Shard: Equatable {
    var file: String
    /// The sequences whose activations it holds, counted over all text.
    var sequences: Range<Int>
    /// Number of activations.
    var tokens: Int
  }

  /// What decides the activations; a harvest goes on only if all of it is the same.
  var parameters: [JSONValue.Member]
  var shards: [Shard] = []
  var isComplete = false

  /// Activations on the disk, in each layer's folder.
  var tokens: Int { shards.reduce(0) { $0 + $1.tokens } }
  /// The sequence to go on with.
  var nextSequence: Int { shards.last?.sequences.upperBound ?? 0 }

  init(parameters: [JSONValue.Member]) { self.parameters = parameters }

  /// Writes the manifest durably, over any older one.
  func write(to folder: String) throws(FileError) {
    let shards = shards.map { shard -> JSONValue in
      .object([
        .init("file", .string(shard.file)),
        .init(
          "sequences",
          [JSONValue(shard.sequences.lowerBound), JSONValue(shard.sequences.upperBound)]),
        .init("tokens", JSONValue(shard.tokens)),
      ])
    }
    let members: [JSONValue.Member] =
      [
        .init("format", 1), .init("complete", .bool(isComplete)),
        .init("tokens", JSONValue(tokens)),
      ]
      + parameters + [.init("shards", .array(shards))]
    let text = StrictJSON.text(.object(members), indented: true) + "\n"
    try DurableFile.replace("\(folder)/\(Self.fileName)", with: text)
  }

  /// Takes over the shards of an earlier harvest into the folder, if there was one.
  ///
  /// - Throws: `TrainingError` if it had other parameters, naming the first that differs; `FileError`
  ///   if its manifest is malformed.
  mutating func resume(from folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    guard access(path, F_OK) == 0 else { return }
    let root = try JSONReader(contentsOf: path, byteCountMax: Self.bytesMax)
    try root.requireFormat(1)
    let isComplete = try root.required("complete").bool()
    for parameter in parameters where root[parameter.key]?.value != parameter.value {
      throw TrainingError(
        .changed(path: path),
        "\(path): the harvest there had \(Self.difference(root[parameter.key]?.value, parameter)); "
          + "harvest into another folder, or repeat its options to go on with it")
    }
    var shards: [Shard] = []
    var next = 0
    for entry in try root.required("shards").elements() {
      let file = try entry.required("file").string()
      let tokens = try entry.required("tokens").integer(in: 0...Self.shardTokensMax)
      let ends = try entry.required("sequences").elements().map { try $0.integer() }
      guard !file.contains("/"), ends.count == 2, ends[0] == next, ends[0] < ends[1] else {
        throw entry.fault("does not follow from the shard before, or names a file elsewhere")
      }
      shards.append(Shard(file: file, sequences: ends[0]..<ends[1], tokens: tokens))
      next = ends[1]
    }
    self.shards = shards
    self.isComplete = isComplete
  }

  /// How a parameter differs, in the shortest words that tell.
  private static func difference(_ stored: JSONValue?, _ parameter: JSONValue.Member) -> String {
    func text(_ value: JSONValue?) -> String { value.map { StrictJSON.text($0) } ?? "nothing" }
    if parameter.key == "text", let was = stored?.elements, let now = parameter.value.elements {
      // Texts may be many: the first that differs tells enough.
      guard was.count == now.count, let index = was.indices.first(where: { was[$0] != now[$0] })
      else { return "\(was.count) text files, not \(now.count)" }
      return "another text file: \(text(was[index])), not \(text(now[index]))"
    }
    return "\(parameter.key) \(text(stored)), not \(text(parameter.value))"
  }
}
