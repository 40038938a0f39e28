internal import GranuleDictionary
package import GranuleErrors
package import GranuleFiles
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
  package let text: [Fingerprint]
  private let path: String

  /// Finds the manifest beside the layer's folder that activations are in.
  ///
  /// - Throws: `TrainingError` if there is none, or several harvests or layers are mixed, or it is
  ///   not of the residual stream; `FileError` if it cannot be read.
  package init(of dataset: ActivationDataset) throws {
    let folders = Set(dataset.paths.map(Self.parent))
    guard let folder = folders.first, folders.count == 1 else {
      throw TrainingError(
        .mismatch,
        "the activations are in \(folders.count) folders: name one layer of one harvest, since the "
          + "language model is run again from there")
    }
    let name = folder.split(separator: "/").last.map(String.init) ?? ""
    path = "\(Self.parent(folder))/\(HarvestManifest.fileName)"
    guard let layer = HookPoint.layer(ofFolder: name) else {
      throw TrainingError(
        .unusable(input: folder),
        "\(folder): is not a layer-L folder of granule harvest: attribution needs to know which "
          + "language model the activations are of, and where")
    }
    let root = try JSONReader(kept: path)
    let model = try root.required("model")
    let hook = try root.required("hook").string()
    let layers = try root.required("layers").elements().map { try $0.integer() }
    guard layers.contains(layer) else {
      throw TrainingError(
        .damaged(file: path),
        "\(path): the harvest was not of layer \(layer), which \(folder) claims")
    }
    let stated = HookPoint.block(layer, .residual)
    guard hook == HookPoint.Site.residual.rawValue, dataset.origin?.hook ?? stated == stated
    else {
      throw TrainingError(
        .mismatch,
        "\(path): the activations are of \(dataset.origin?.hook.name ?? hook), \(stated) is needed: only "
          + "the residual stream can be attributed")
    }
    modelSHA256 = try model.required("sha256").string()
    modelName = try model.required("name").string()
    self.layer = layer
    context = try root.required("context").integer()
    text = try root.required("text").elements().map { try Fingerprint(text: $0) }
  }

  /// - Throws: `TrainingError` if a model's file is not the one that the activations are of.
  package func check(_ file: GGUFFile, path modelPath: String) throws(TrainingError) {
    let digest = Digest.sha256(file.file)
    guard digest == modelSHA256 else {
      throw TrainingError(
        .mismatch,
        "\(modelPath): is not the language model of the activations, \(modelName): its sha256 is "
          + "\(digest), \(path) has \(modelSHA256)")
    }
  }

  /// - Throws: `TrainingError` if a text, of those that were harvested, has changed since;
  ///   `FileError` if it cannot be read.
  package func checkText() throws {
    for file in text where try Fingerprint(digesting: file.path) != file {
      throw TrainingError(
        .changed(path: file.path),
        "\(file.path): has other contents than when it was harvested, says \(path); name text to "
          + "attribute on with --text")
    }
  }

  private static func parent(_ path: String) -> String {
    path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }
}
