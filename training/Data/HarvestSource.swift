package import GranuleErrors
internal import GranuleFiles
package import GranuleLanguageModel
internal import GranuleTensors

/// What activations were harvested from, as the manifest of the harvest says.
package struct HarvestSource {
  /// SHA-256 of the language model's file.
  package let modelSHA256: String
  /// The model's name.
  package let modelName: String
  /// The block before which the residual stream was taken.
  package let layer: Int
  /// Tokens a sequence.
  package let context: Int
  /// The text's files, as they were named and what they held then.
  package let text: [TextFile]
  private let path: String

  /// Finds the manifest beside the layer's folder that activations are in.
  ///
  /// - Throws: `TrainingError` where there is none, or several harvests or layers are mixed, or it is
  ///   not of the residual stream; `FileError` where it cannot be read.
  package init(of dataset: ActivationDataset) throws {
    let folders = Set(dataset.paths.map(Self.parent))
    guard let folder = folders.first, folders.count == 1 else {
      throw TrainingError(
        "the activations are in \(folders.count) folders: name one layer of one harvest, since the "
          + "language model is run again from there")
    }
    let name = folder.split(separator: "/").last.map(String.init) ?? ""
    path = "\(Self.parent(folder))/\(HarvestManifest.fileName)"
    let prefix = ActivationHarvester.layerFolderPrefix
    guard name.hasPrefix(prefix), let layer = Int(name.dropFirst(prefix.count)) else {
      throw TrainingError(
        "\(folder): is no layer-L folder of granule harvest: attribution needs to know which "
          + "language model the activations are of, and where")
    }
    let root = try JSONFile.read(path)
    guard let model = root["model"], let sha256 = model["sha256"]?.string,
      let modelName = model["name"]?.string, let context = root["context"]?.integer,
      let layers = root["layers"]?.elements?.map(\.integer), let hook = root["hook"]?.string,
      let stored = root["text"]?.elements
    else { throw TrainingError("\(path): is no manifest of a harvest") }
    guard layers.contains(layer) else {
      throw TrainingError("\(path): the harvest was not of layer \(layer), which \(folder) claims")
    }
    let stated = LanguageModel.Hook.residual.name(layer: layer)
    guard hook == LanguageModel.Hook.residual.rawValue, dataset.origin?.hook ?? stated == stated
    else {
      throw TrainingError(
        "\(path): the activations are of \(dataset.origin?.hook ?? hook), \(stated) is needed: only "
          + "the residual stream can be attributed")
    }
    modelSHA256 = sha256
    self.modelName = modelName
    self.layer = layer
    self.context = context
    text = stored.compactMap { TextFile(json: $0) }
    guard text.count == stored.count else {
      throw TrainingError("\(path): a text has no file or no sha256")
    }
  }

  /// - Throws: `TrainingError` where a model's file is not the one that the activations are of.
  package func check(_ file: GGUFFile, path modelPath: String) throws(TrainingError) {
    let digest = Digest.sha256(file.file)
    guard digest == modelSHA256 else {
      throw TrainingError(
        "\(modelPath): is not the language model of the activations, \(modelName): its sha256 is "
          + "\(digest), \(path) has \(modelSHA256)")
    }
  }

  /// - Throws: `TrainingError` where a text, of those that were harvested, has changed since;
  ///   `FileError` where it cannot be read.
  package func checkText() throws {
    for file in text where try TextFile(reading: file.path) != file {
      throw TrainingError(
        "\(file.path): has other contents than when it was harvested, says \(path); name text to "
          + "attribute on with --text")
    }
  }

  private static func parent(_ path: String) -> String {
    path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }
}
