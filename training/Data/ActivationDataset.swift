public import GranuleDictionary
public import GranuleErrors
internal import GranuleFiles
package import GranuleTensors

/// Activations in files: the tokens of many sequences, read as they are needed.
///
/// A `.npy` file, or the tensor `activations` of a safetensors file:
///
/// - of three dimensions, `[sequences, positions, d_model]`: position 0, the attention sink, is
///   dropped;
/// - of two, `[tokens, d_model]`: every row is a token. Where sequences begin a tensor `sequence_starts` says, as harvested files
///   have it; else blocks of 512 rows stand for sequences when they are split.
///
/// Files are mapped: they must not be shortened while they are in use.
public struct ActivationDataset: Sendable {
  /// Rows that stand for a sequence if a file does not say where sequences end.
  public static let blockRows = 512

  /// Consecutive rows of one file that belong together.
  struct Sequence: Sendable, Equatable {
    var file: Int
    var rows: Range<Int>
  }

  /// The language model that activations come from and where in it, as harvested files state it.
  public struct Origin: Sendable, Equatable {
    /// The model's name.
    public var languageModel: String
    /// Where in the model.
    public var hook: HookPoint

    /// An origin.
    public init(languageModel: String, hook: HookPoint) {
      self.languageModel = languageModel
      self.hook = hook
    }
  }

  /// Length of an activation.
  public let dModel: Int
  /// Where all the activations come from, nil if files do not say or say different things.
  public let origin: Origin?
  /// The files' paths, sorted.
  public let paths: [String]
  /// Number of tokens.
  public let tokens: Int
  private let tensors: [Tensor]
  private let sequences: [Sequence]
  /// The index of each sequence's first token, and the number of tokens at the end.
  private let starts: [Int]

  /// Number of sequences.
  public var sequenceCount: Int { sequences.count }

  /// Opens files, or all `.npy` and `.safetensors` files in folders; a folder that `granule harvest`
  /// wrote for one layer stands for that layer's.
  ///
  /// - Throws: `TrainingError` or `FileError` if a path is missing, holds no activations,
  ///   or files differ in d_model.
  public init(paths: [String]) throws {
    // Absolute, so that a run's configuration means the same from any folder.
    let files = try paths.flatMap(Self.files).map(Folder.absolute)
    var tensors: [Tensor] = []
    var sequences: [Sequence] = []
    var origins: [Origin?] = []
    for (number, path) in files.enumerated() {
      let (tensor, starts, origin) = try Self.open(path)
      origins.append(origin)
      let shape = tensor.shape
      guard shape.count == 2 || shape.count == 3, let dModel = shape.last, dModel > 0 else {
        throw tensor.fault(
          "has shape \(shape); [tokens, d_model] or [sequences, positions, d_model] is needed")
      }
      guard tensor.type.isFloatingPoint else {
        throw tensor.fault(
          "has element type \(tensor.type.safetensorsName), a floating-point type is needed")
      }
      if let first = tensors.first, first.shape.last != dModel {
        throw tensor.fault(
          "has d_model \(dModel), but \(first.file.path) has \(first.shape.last ?? 0)")
      }
      tensors.append(tensor)
      if shape.count == 3 {
        guard shape[1] > 1 else { continue }
        for sequence in 0..<shape[0] {
          let start = sequence * shape[1]
          sequences.append(Sequence(file: number, rows: start + 1..<start + shape[1]))
        }
      } else if let starts {
        for (start, end) in zip(starts, starts.dropFirst() + [shape[0]]) {
          sequences.append(Sequence(file: number, rows: start..<end))
        }
      } else {
        for start in stride(from: 0, to: shape[0], by: Self.blockRows) {
          sequences.append(
            Sequence(file: number, rows: start..<min(start + Self.blockRows, shape[0])))
        }
      }
    }
    guard let dModel = tensors.first?.shape.last, !sequences.isEmpty else {
      throw TrainingError(
        .missing(path: paths.joined(separator: ", ")),
        "\(paths.joined(separator: ", ")): no activations found")
    }
    let origin = origins.allSatisfy { $0 == origins[0] } ? origins[0] : nil
    self.init(
      dModel: dModel, origin: origin, paths: files, tensors: tensors, sequences: sequences)
  }

  /// Rows in memory: [rows, d_model]; at least one.
  ///
  /// - Parameter name: stands for a path in messages.
  /// - Throws: `TrainingError` if there is no memory for a copy.
  init(rows: [Float], dModel: Int, name: String) throws(TrainingError) {
    let count = rows.count / dModel
    let copy = rows.withUnsafeBytes { bytes in
      Result { () throws(FileError) in try FileBytes.copy(bytes, named: name) }
    }
    guard case .success(let file) = copy else {
      throw TrainingError(
        .tooLittleMemory(needed: 4 * rows.count, available: 0),
        "\(count) \(name) take \(4 * rows.count >> 20) MiB, for which there is no memory: keep fewer"
      )
    }
    let tensor = Tensor(
      name: "", type: .float32, shape: [count, dModel], file: file, byteRange: 0..<4 * rows.count)
    self.init(
      dModel: dModel, origin: nil, paths: [name], tensors: [tensor],
      sequences: [Sequence(file: 0, rows: 0..<count)])
  }

  private init(
    dModel: Int, origin: Origin?, paths: [String], tensors: [Tensor], sequences: [Sequence]
  ) {
    self.dModel = dModel
    self.origin = origin
    self.paths = paths
    self.tensors = tensors
    self.sequences = sequences
    var starts = [0]
    for sequence in sequences { starts.append(starts[starts.count - 1] + sequence.rows.count) }
    self.starts = starts
    tokens = starts[starts.count - 1]
  }

  /// Whether both are the same tokens of the same files.
  public func isSame(as other: ActivationDataset) -> Bool {
    paths == other.paths && sequences == other.sequences
  }

  /// Whether any sequence is in both, of the same rows of the same file.
  public func overlaps(_ other: ActivationDataset) -> Bool {
    struct Place: Hashable {
      var path: String
      var row: Int
    }
    func places(_ dataset: ActivationDataset) -> some Swift.Sequence<Place> {
      dataset.sequences.lazy.map {
        Place(path: dataset.paths[$0.file], row: $0.rows.lowerBound)
      }
    }
    let own = Set(places(self))
    return places(other).contains { own.contains($0) }
  }

  /// The tokens of some of the sequences only.
  ///
  /// - Throws: `TrainingError` if the range goes beyond the sequences there are.
  public func selecting(sequences range: Range<Int>) throws(TrainingError) -> ActivationDataset {
    guard range.lowerBound >= 0, range.upperBound <= sequences.count, !range.isEmpty else {
      throw TrainingError(
        .invalid(
          field: "sequences", value: "\(range.lowerBound)-\(range.upperBound - 1)",
          limit: "in 0 … \(sequences.count - 1)"),
        "sequences \(range.lowerBound) to \(range.upperBound - 1) were asked for, there are "
          + "0 to \(sequences.count - 1)")
    }
    return ActivationDataset(
      dModel: dModel, origin: origin, paths: paths, tensors: tensors,
      sequences: Array(sequences[range]))
  }

  /// Sequences at even distances over the dataset, of at most `limit` tokens in all, the last cut to
  /// fit; all if there are no more tokens than that.
  ///
  /// - Parameter limit: at least 1.
  package func spread(tokens limit: Int) -> ActivationDataset {
    guard tokens > limit else { return self }
    let count = max(1, Int(Double(sequences.count) * Double(limit) / Double(tokens)))
    var left = limit
    var spread: [Sequence] = []
    for number in 0..<count where left > 0 {
      var sequence = sequences[number * sequences.count / count]
      sequence.rows = sequence.rows.prefix(left)
      spread.append(sequence)
      left -= sequence.rows.count
    }
    return ActivationDataset(
      dModel: dModel, origin: origin, paths: paths, tensors: tensors, sequences: spread)
  }

  /// The files, with the number of tokens that the dataset has of each.
  var files: [(path: String, contents: FileBytes, tokens: Int)] {
    var counts = [Int](repeating: 0, count: paths.count)
    for sequence in sequences { counts[sequence.file] += sequence.rows.count }
    return paths.indices.map { (paths[$0], tensors[$0].file, counts[$0]) }
  }

  /// Reads one token as float32.
  ///
  /// - Parameter output: room for d_model values.
  public func copyToken(_ token: Int, into output: UnsafeMutablePointer<Float>) {
    let (sequence, row) = location(of: token)
    copy(rows: row..<row + 1, of: sequence, into: output)
  }

  /// Reads consecutive tokens as float32: [tokens, d_model].
  ///
  /// - Parameter output: room for range.count · d_model values.
  public func copyTokens(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    var token = range.lowerBound
    var output = output
    while token < range.upperBound {
      let (sequence, row) = location(of: token)
      let count = min(sequence.rows.upperBound - row, range.upperBound - token)
      copy(rows: row..<row + count, of: sequence, into: output)
      output += count * dModel
      token += count
    }
  }

  /// Tokens at even distances, all if there are no more: [at most `limit`, d_model] float32.
  package func sample(tokens limit: Int) -> FloatStorage {
    let count = min(tokens, limit)
    let sample = FloatStorage(count: count * dModel)
    for number in 0..<count {
      copyToken(tokens * number / count, into: sample.pointer + number * dModel)
    }
    return sample
  }

  /// All tokens as float32: [tokens, d_model].
  package func allTokens() -> FloatStorage {
    let result = FloatStorage(count: tokens * dModel)
    copyTokens(0..<tokens, into: result.pointer)
    return result
  }

  /// Where a token comes from, for messages.
  public func describe(token: Int) -> String {
    let (sequence, row) = location(of: token)
    return "\(paths[sequence.file]), row \(row)"
  }

  /// That a pre-activation or an error overflows, and what of: an activation far beyond the others is to
  /// blame, or an encoder that has grown without bound.
  ///
  /// - Parameter encoder: W_enc, [latents, d_model]
  package func describeOverflow(token: Int, encoder: FloatStorage) -> String {
    let row = FloatStorage(count: dModel)
    copyToken(token, into: row.pointer)
    return Self.describeOverflow(
      at: describe(token: token), row: UnsafePointer(row.pointer), dModel: dModel, encoder: encoder)
  }

  /// The same for a row that is in memory: [d_model], raw.
  package static func describeOverflow(
    at place: String, row: UnsafePointer<Float>, dModel: Int, encoder: FloatStorage
  ) -> String {
    func norm(_ values: UnsafePointer<Float>) -> Double {
      (0..<dModel).reduce(0.0) { $0 + Double(values[$1]) * Double(values[$1]) }.squareRoot()
    }
    let longest = stride(from: 0, to: encoder.count, by: dModel)
      .reduce(0.0) { max($0, norm(encoder.pointer + $1)) }
    return
      "\(place): a pre-activation or its error overflows float32: the activation's "
      + "norm is \(Float(norm(row))), that of the longest encoder vector \(Float(longest))"
  }

  private func location(of token: Int) -> (sequence: Sequence, row: Int) {
    precondition((0..<tokens).contains(token))
    var (low, high) = (0, sequences.count - 1)
    while low < high {
      let middle = (low + high + 1) / 2
      if starts[middle] <= token { low = middle } else { high = middle - 1 }
    }
    return (sequences[low], sequences[low].rows.lowerBound + token - starts[low])
  }

  private func copy(
    rows: Range<Int>, of sequence: Sequence, into output: UnsafeMutablePointer<Float>
  ) {
    let elements = rows.lowerBound * dModel..<rows.upperBound * dModel
    do throws(FileError) {
      try tensors[sequence.file].copyFloat32(elements: elements, into: output)
    } catch {
      preconditionFailure("the element type was checked when the file was opened: \(error)")
    }
  }

  /// The activations in a file and, where it says so, the rows at which sequences begin and where
  /// the activations come from.
  private static func open(
    _ path: String
  ) throws(FileError) -> (tensor: Tensor, sequenceStarts: [Int]?, origin: Origin?) {
    let file = try FileBytes.map(path)
    guard path.hasSuffix(".npy") || path.hasSuffix(".safetensors") else {
      throw FileError(
        file: path, tensor: nil, fault: "is neither a .npy nor a .safetensors file")
    }
    if path.hasSuffix(".npy") { return (try NumpyFile(file).tensor, nil, nil) }
    let tensors = try SafetensorsFile(file)
    let activations = try tensors.tensor("activations")
    var origin: Origin?
    if let model = tensors.metadata["model"], let hook = tensors.metadata["hook"] {
      origin = Origin(languageModel: model, hook: HookPoint(hook))
    }
    guard let stored = tensors["sequence_starts"], activations.shape.count == 2 else {
      return (activations, nil, origin)
    }
    let starts = try stored.integers()
    let rows = activations.shape[0]
    guard starts.isEmpty ? rows == 0 : starts[0] == 0 && starts[starts.count - 1] < rows,
      zip(starts, starts.dropFirst()).allSatisfy({ $0 < $1 })
    else {
      throw stored.fault("must begin with 0, ascend, and stay below the \(rows) rows")
    }
    return (activations, starts, origin)
  }

  private static func files(_ path: String) throws -> [String] {
    if path.count > 1, path.hasSuffix("/") { return try files(String(path.dropLast())) }
    guard Folder.isFolder(path) else { return [path] }
    let names = try Folder.entries(of: path).filter {
      !$0.hasPrefix(".") && ($0.hasSuffix(".npy") || $0.hasSuffix(".safetensors"))
    }
    guard !names.isEmpty else {
      let layers = try Folder.entries(of: path).filter {
        HookPoint.layer(ofFolder: $0) != nil && Folder.isFolder("\(path)/\($0)")
      }
      if layers.count == 1 { return try files("\(path)/\(layers[0])") }
      let which =
        layers.isEmpty ? "" : "; it has layers, name one of \(layers.joined(separator: ", "))"
      throw TrainingError(
        .missing(path: path), "\(path): the folder has no .npy and no .safetensors file\(which)")
    }
    return names.map { "\(path)/\($0)" }
  }
}
