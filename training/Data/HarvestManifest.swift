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

  /// What decides the activations; a harvest goes on only where all of it is the same.
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

  /// Takes over the shards of an earlier harvest into the folder, where there was one.
  ///
  /// - Throws: `TrainingError` where it had other parameters, naming the first that differs, or its
  ///   manifest is malformed.
  mutating func resume(from folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    guard access(path, F_OK) == 0 else { return }
    let file = try FileBytes.read(path, byteCountMax: Self.bytesMax)
    let root: JSONValue
    do throws(StrictJSONError) { root = try StrictJSON.parse(file.bytes) } catch {
      throw TrainingError("\(path): is not valid JSON: \(error)")
    }
    guard root["format"]?.integer == 1, let stored = root["shards"]?.elements,
      let isComplete = root["complete"]?.bool
    else { throw TrainingError("\(path): is no manifest of a harvest") }
    for parameter in parameters where root[parameter.key] != parameter.value {
      throw TrainingError(
        "\(path): the harvest there had \(Self.difference(root[parameter.key], parameter)); "
          + "harvest into another folder, or repeat its options to go on with it")
    }
    var shards: [Shard] = []
    var next = 0
    for entry in stored {
      guard let file = entry["file"]?.string, !file.contains("/"),
        let tokens = entry["tokens"]?.integer,
        (0...Self.shardTokensMax).contains(tokens),
        let ends = entry["sequences"]?.elements?.compactMap(\.integer),
        ends.count == 2,
        ends[0] == next, ends[0] < ends[1]
      else { throw TrainingError("\(path): shard \(shards.count) is malformed") }
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
