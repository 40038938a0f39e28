public import GranuleDictionary
internal import GranuleErrors
internal import GranuleFiles
internal import GranuleLanguageModel
public import GranuleTensors

/// What to harvest: activations of a language model on text.
public struct HarvestConfiguration: Sendable, Equatable {
  /// The model's GGUF file.
  public var model: String
  /// Blocks at which to take activations, in one pass.
  public var layers: [Int]
  /// What to take there.
  public var site = HookPoint.Site.residual
  /// Text files and folders; a folder stands for the `.txt`, `.md` and `.rst` files in it and in its
  /// sub-folders.
  public var text: [String]
  /// The folder to write to.
  public var out: String
  /// Tokens a sequence; a file's last sequence may be shorter. No sequence spans two files.
  public var context = 512
  /// Activations to write for each layer, nil for all that the text gives.
  public var tokens: Int?
  /// float16 or float32.
  public var type = ElementType.float16
  /// Whether position 0 of each sequence and end-of-text tokens are kept. They are attention sinks,
  /// whose norms are a hundred times those of other tokens in the middle of a model.
  public var keepsFirstPosition = false
  /// Bytes of activations a shard, at most, but for a shard of one sequence.
  public var shardBytes = 64 << 20

  /// Activations at `layers` of the model in the file `model`, with defaults for all else.
  public init(model: String, layers: [Int], text: [String], out: String) {
    self.model = model
    self.layers = layers
    self.text = text
    self.out = out
  }

  /// - Throws: `TrainingError` naming the option that is out of bounds for the model.
  func validate(for shape: LlamaConfiguration) throws(TrainingError) {
    let last = site == .residual ? shape.blocks : shape.blocks - 1
    try TrainingError.require(!layers.isEmpty, "layer", "missing", "named at least once")
    try TrainingError.require(
      Set(layers).count == layers.count, "layer", "repeated", "named once for each layer")
    for layer in layers {
      try TrainingError.require(
        (0...last).contains(layer), "layer", layer, "in 0 … \(last), the model's")
    }
    try TrainingError.require(
      (2...shape.contextLength).contains(context), "context", context,
      "in 2 … \(shape.contextLength), which the model takes")
    try TrainingError.require((tokens ?? 1) >= 1, "tokens", tokens ?? 0, "at least 1")
    try TrainingError.require(
      type == .float16 || type == .float32, "type", type.safetensorsName, "float16 or float32")
    try TrainingError.require(shardBytes >= 1, "shard bytes", shardBytes, "at least 1")
  }

  /// Text files in the order in which they are read: as named, folders' files sorted by path.
  ///
  /// - Throws: `TrainingError` or `FileError` if a folder cannot be read or has no text.
  func textFiles() throws -> [String] { try Self.textFiles(text) }

  /// The same of any paths.
  package static func textFiles(_ paths: [String]) throws -> [String] {
    try paths.flatMap { path in
      guard Folder.isFolder(path) else { return [path] }
      let files = try textFiles(in: path, depth: 0)
      guard !files.isEmpty else {
        throw TrainingError(
          .missing(path: path), "\(path): there is no .txt, .md or .rst file in the folder")
      }
      return files
    }
  }

  /// How deeply folders are searched: links may lead round in circles.
  private static let folderDepthMax = 16

  private static func textFiles(in folder: String, depth: Int) throws -> [String] {
    try Folder.entries(of: folder).filter { !$0.hasPrefix(".") }.flatMap { name in
      let path = "\(folder)/\(name)"
      if Folder.isFolder(path) {
        guard depth < folderDepthMax else {
          throw TrainingError(
            .unusable(input: path), "\(path): folders are nested more than \(folderDepthMax) deep")
        }
        return try textFiles(in: path, depth: depth + 1)
      }
      return [".txt", ".md", ".rst"].contains { name.hasSuffix($0) } ? [path] : []
    }
  }
}
