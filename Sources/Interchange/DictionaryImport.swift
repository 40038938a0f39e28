public import GranuleDictionary
public import GranuleFiles
internal import GranuleTensors

/// Reads a dictionary that another library wrote, so that it computes the same here.
///
/// What else than a product, a selection and a normalisation a library does is folded into the
/// weights where that is exact; what cannot be served right is refused by name.
public struct DictionaryImport {
  /// The format.
  public let format: DictionaryFormat
  /// The path of the weights' file.
  public let weights: String
  /// Granularities to list instead of what the file has; ascending.
  public var granularities: [Int]?
  /// What training multiplied activations by, where the weights do not have it yet: folded into them.
  public var activationScale: Double?
  /// Whether latents are sorted by the mean squares that the file has of them (OpenAI's).
  public var sortsLatents = false

  /// A setting of the dictionary, and what was done with it.
  public struct Note: Sendable, Equatable {
    /// The setting, as its library calls it.
    public let setting: String
    /// What it means here.
    public let effect: String
  }

  /// A dictionary with an account of how its settings were understood.
  public struct Result {
    /// The dictionary.
    public var dictionary: SparseAutoencoder
    /// Its settings.
    public var notes: [Note]
  }

  /// Finds the dictionary at a path: a folder, or the file with the weights.
  ///
  /// - Parameter format: nil recognises it.
  /// - Throws: `FileError` if nothing is found or recognised.
  public init(_ path: String, format: DictionaryFormat? = nil) throws(FileError) {
    let path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
    guard let format else {
      (self.format, weights) = try DictionaryFormat.recognize(path)
      return
    }
    self.format = format
    guard Folder.isFolder(path) else {
      weights = path
      return
    }
    if let name = format.weightsName {
      weights = "\(path)/\(name)"
      return
    }
    let files = try Folder.entries(of: path).filter { $0.hasSuffix(".pt") }
    guard files.count == 1 else {
      throw FileError(file: path, fault: "has \(files.count) .pt files: name one")
    }
    weights = "\(path)/\(files[0])"
  }

  /// The path of a file beside the weights.
  func sibling(_ name: String) -> String {
    guard let end = weights.lastIndex(of: "/") else { return name }
    return weights[...end] + name
  }

  /// Bytes that will be read at most: what the progress of reading refers to.
  ///
  /// - Throws: `FileError` if the file cannot be examined.
  public func byteCount() throws(FileError) -> Int { try FileBytes.map(weights).bytes.count }

  /// Reads the dictionary; memory is that of its float32 weights and some MiB.
  ///
  /// - Throws: `FileError` that names file, tensor and fault, or that `progress` ended it.
  public func read(progress: TransferProgress? = nil) throws(FileError) -> Result {
    var imported: ImportedParts =
      switch format {
      case .saeLens: try saeLens(progress)
      case .gemmaScope: try gemmaScope(progress)
      case .gemmaScope2: try gemmaScope2(progress)
      case .sparsify: try sparsify(progress)
      case .dictionaryLearning: try dictionaryLearning(progress)
      case .openAI: try openAI(progress)
      }
    if let activationScale, format != .saeLens {
      try imported.parts.foldActivationScale(activationScale, tensor: imported.decoder)
    }
    if let activationScale {
      imported.note("activation scale", "\(activationScale), folded into the weights")
    }
    let latents = imported.parts.encoderBias.count
    if let granularities {
      guard let last = granularities.last, last <= latents, granularities[0] > 0 else {
        throw FileError(
          file: weights,
          fault: "has \(latents) latents, the granularities \(granularities) are beyond them")
      }
      imported.parts.granularities = granularities.map { Granularity(latents: $0, k: 0) }
    }
    var dictionary = SparseAutoencoder(imported.parts)
    if sortsLatents {
      guard let squares = imported.meanSquares else {
        throw FileError(
          file: weights,
          fault: "has no mean squares of its latents to sort them by: granule order "
            + "measures them on activations")
      }
      dictionary = sorted(dictionary, by: squares)
      imported.note(
        "latents_mean_square", "latents are sorted by it, times their decoder rows' norms²")
    }
    imported.note(
      "granularities",
      dictionary.granularities.isEmpty
        ? "none are recorded: granule order makes and calibrates them"
        : dictionary.granularities.map { String($0.latents) }.joined(separator: ", "))
    return Result(dictionary: dictionary, notes: imported.notes)
  }

  private func sorted(_ dictionary: SparseAutoencoder, by squares: [Float]) -> SparseAutoencoder {
    let dModel = dictionary.dModel
    let keys = squares.indices.map { latent in
      let row = dictionary.decoderWeights.values[latent * dModel..<(latent + 1) * dModel]
      return Double(squares[latent]) * row.reduce(0) { $0 + Double($1) * Double($1) }
    }
    let order = keys.indices.sorted { (keys[$1], $0) < (keys[$0], $1) }
    var parts = dictionary.permuted(order).parts
    parts.provenance.orderedBy = "latents_mean_square"
    return SparseAutoencoder(parts)
  }
}

/// What a format's reader makes of its files.
struct ImportedParts {
  var parts: SparseAutoencoder.Parts
  /// The decoder's tensor, for messages.
  let decoder: StoredTensor
  var notes: [DictionaryImport.Note] = []
  /// E[z²] of each latent, [latents], where the file has it.
  var meanSquares: [Float]?

  mutating func note(_ setting: String, _ effect: String) {
    notes.append(.init(setting: setting, effect: effect))
  }

  /// The four weights of a dictionary, each checked for its shape and finiteness.
  ///
  /// - Parameter vectors: further vectors, with their lengths; they are read first.
  /// - Returns: the parts with the rule `relu`, and the further vectors.
  /// - Throws: `FileError` that names the tensor at fault.
  static func read(
    _ tensors: TensorCollection, _ names: WeightNames, dModel: Int, latents: Int,
    vectors: [String: Int] = [:], progress: TransferProgress?
  ) throws(FileError) -> (parts: ImportedParts, vectors: [String: FloatStorage]) {
    let needed = 4 * 2 * dModel * latents
    guard Memory.canBeHad(needed) else {
      throw FileError(
        file: tensors.file, fault: "needs \(needed) bytes of memory, more than can be had")
    }
    // Everything must be there before much is read.
    let encoder = try tensors.tensor(names.encoder)
    let decoder = try tensors.tensor(names.decoder)
    // Small tensors first: what is wrong with them is told at once.
    var values: [String: FloatStorage] = [:]
    for (name, count) in vectors.sorted(by: { $0.key < $1.key }) {
      values[name] = try tensors.tensor(name).vector(count: count)
    }
    let encoderBias = try tensors.tensor(names.encoderBias).vector(count: latents)
    let decoderBias = try tensors.tensor(names.decoderBias).vector(count: dModel)
    func matrix(
      _ tensor: StoredTensor, isTransposed: Bool
    ) throws(FileError) -> FloatStorage {
      try tensor.matrix(
        shape: isTransposed ? [dModel, latents] : [latents, dModel], transposed: isTransposed,
        progress: progress)
    }
    let encoderWeights = try matrix(encoder, isTransposed: names.encoderIsTransposed)
    let decoderWeights = try matrix(decoder, isTransposed: names.decoderIsTransposed)
    let parts = SparseAutoencoder.Parts(
      encoderWeights: encoderWeights, encoderBias: encoderBias, decoderWeights: decoderWeights,
      decoderBias: decoderBias, selectionRule: .relu)
    return (ImportedParts(parts: parts, decoder: decoder), values)
  }
}
