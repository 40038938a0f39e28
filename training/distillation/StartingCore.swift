internal import Glibc
internal import SparseAutoencoder
internal import Tensors

/// The core that a training begins with: a dictionary of nothing but its latents. Only the encoder's
/// vectors are used; they act alike on activations of any scale.
struct StartingCore {
  static let folderName = "core"
  let dictionary: SparseAutoencoder
  let distilled: DistilledCore
  private let folder: String

  var latents: Int { dictionary.latents }

  /// Reads the core of a dictionary folder, of a run's dictionary, or of a distillation.
  ///
  /// - Throws: `TrainingError` where the dictionary has no core; `TensorFileError` where it cannot be
  ///   read.
  init(folder path: String) throws {
    let folders = [
      path, "\(path)/\(Trainer.dictionaryFolderName)", "\(path)/\(Distillation.coreFolderName)",
    ]
    let folder =
      folders.first { access("\($0)/\(DictionaryFiles.configName)", F_OK) == 0 } ?? path
    let whole = try SparseAutoencoder(folder: folder)
    guard let latents = whole.core?.latents else {
      throw TrainingError(
        "\(folder) has no core: name a core that granule distill wrote, or a dictionary that was "
          + "trained with one")
    }
    dictionary = whole.standalone(granularity: latents)
    guard let distilled = dictionary.core else { preconditionFailure("a prefix keeps its core") }
    self.distilled = distilled
    self.folder = folder
  }

  /// - Throws: `TrainingError` where it is not of the same place in the same language model as these
  ///   activations, as far as both say where they come from.
  func check(dModel: Int, languageModel: String, hook: String) throws(TrainingError) {
    guard dictionary.dModel == dModel else {
      throw TrainingError(
        "\(folder): the core has d_model \(dictionary.dModel), the activations have \(dModel)")
    }
    let provenance = dictionary.provenance
    for (what, own, theirs) in [
      ("hook", provenance.hook, hook), ("language model", provenance.languageModel, languageModel),
    ] where !own.isEmpty && !theirs.isEmpty && own != theirs {
      throw TrainingError(
        "\(folder): the core's \(what) is \(own), the activations' is \(theirs): a core is of use "
          + "only where it was found")
    }
  }
}
