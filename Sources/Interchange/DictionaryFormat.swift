internal import Glibc
internal import GranuleDictionary
public import GranuleFiles
internal import GranuleTensors

/// A format of dictionaries that other libraries write.
public enum DictionaryFormat: String, Sendable, CaseIterable {
  /// SAELens: a folder with `cfg.json` and `sae_weights.safetensors`; Granule's own, too.
  case saeLens = "saelens"
  /// Gemma Scope 1: `params.npz`.
  case gemmaScope = "gemma-scope"
  /// Gemma Scope 2: a folder with `config.json` and `params.safetensors`.
  case gemmaScope2 = "gemma-scope-2"
  /// EleutherAI's sparsify: a folder with `cfg.json` and `sae.safetensors`.
  case sparsify
  /// dictionary_learning: `ae.pt`, with `config.json` beside it.
  case dictionaryLearning = "dictionary-learning"
  /// OpenAI's sparse_autoencoder: a `.pt` file.
  case openAI = "openai"

  /// The name of the weights' file in a folder; nil if it may have any.
  var weightsName: String? {
    switch self {
    case .saeLens: DictionaryFiles.weightsName
    case .gemmaScope: "params.npz"
    case .gemmaScope2: "params.safetensors"
    case .sparsify: "sae.safetensors"
    case .dictionaryLearning: "ae.pt"
    case .openAI: nil
    }
  }

  /// Recognises what is at a path: by the names of files in a folder, by the content of a file.
  ///
  /// - Parameter path: a folder, or the file with the weights.
  /// - Returns: the format and the path of the weights' file.
  /// - Throws: `FileError` if nothing is recognised, or more than one thing.
  public static func recognize(
    _ path: String
  ) throws(FileError) -> (format: DictionaryFormat, weights: String) {
    guard Folder.isFolder(path) else {
      return (try recognizeFile(path), path)
    }
    let names = try Folder.entries(of: path)
    let found = allCases.filter { format in format.weightsName.map(names.contains) ?? false }
    if found.count > 1 {
      throw FileError(
        file: path,
        fault:
          "has \(found.compactMap(\.weightsName).joined(separator: " and ")): name one of the files"
      )
    }
    if let format = found.first, let name = format.weightsName {
      return (format, "\(path)/\(name)")
    }
    // A name of its own: the one file of a kind that says what it is.
    let others = names.filter { $0.hasSuffix(".pt") || $0.hasSuffix(".npz") }
    if others.count == 1 {
      return (try recognizeFile("\(path)/\(others[0])"), "\(path)/\(others[0])")
    }
    let folders = names.filter { name in
      Folder.isFolder("\(path)/\(name)")
        && allCases.contains { format in
          format.weightsName.map { access("\(path)/\(name)/\($0)", F_OK) == 0 } ?? false
        }
    }
    let known = allCases.compactMap(\.weightsName).joined(separator: ", ")
    throw FileError(
      file: path,
      fault: folders.isEmpty
        ? "has none of the files that dictionaries are recognised by: \(known)"
        : "holds \(folders.count) dictionaries: name one of \(folders.prefix(8).joined(separator: ", "))"
    )
  }

  private static func recognizeFile(_ path: String) throws(FileError) -> DictionaryFormat {
    let name = path.split(separator: "/").last.map(String.init) ?? path
    if let format = allCases.first(where: { $0.weightsName == name }) { return format }
    if name == DictionaryFiles.configName || name == "config.json" {
      throw FileError(file: path, fault: "is a configuration: name its folder")
    }
    if name.hasSuffix(".npz") { return .gemmaScope }
    if name.hasSuffix(".pt") || name.hasSuffix(".pth") {
      return try TorchFile(path).tensors["pre_bias"] == nil ? .dictionaryLearning : .openAI
    }
    _ = try FileBytes.map(path)
    throw FileError(
      file: path,
      fault: "is not recognised: say its --format, one of "
        + allCases.map(\.rawValue).joined(separator: ", "))
  }
}
