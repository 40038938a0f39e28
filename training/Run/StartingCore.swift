internal import Glibc
internal import GranuleDictionary
internal import GranuleErrors
internal import GranuleFiles
internal import GranuleTensors

/// The core that a training begins with: a dictionary of nothing but its latents. Only the encoder's
/// vectors are used; they act alike on activations of any scale.
package struct StartingCore {
  static let folderName = "core"
  /// The file in a distillation's folder that says what is distilled.
  package static let distillationFileName = "distillation.json"
  /// The folder within a distillation that holds the final core.
  package static let distillationCoreName = "core"
  let dictionary: SparseAutoencoder
  let distilled: DistilledCore
  private let folder: String

  var latents: Int { dictionary.latents }

  /// Reads the core of a dictionary folder, of a run's dictionary, or of a distillation.
  ///
  /// - Throws: `TrainingError` if the dictionary has no core, or what is to make it has not finished;
  ///   `FileError` if it cannot be read.
  init(folder path: String) throws {
    func has(_ name: String) -> Bool { access("\(path)/\(name)", F_OK) == 0 }
    // A run has a `core`, too, its copy of the one that it began with.
    let isDistillation = has(Self.distillationFileName)
    let inner = isDistillation ? Self.distillationCoreName : Trainer.dictionaryFolderName
    let isInner = has("\(inner)/\(DictionaryFiles.configName)")
    let isNeither = !isInner && !has(DictionaryFiles.configName)
    if isDistillation, isNeither {
      throw TrainingError(
        .unfinished(path: path),
        "\(path): is a distillation that has not finished: resume it with granule distill --resume "
          + "--out \(path), or name a cycle's selected-core")
    }
    if has(TrainingConfiguration.fileName), isNeither {
      throw TrainingError(
        .unfinished(path: path),
        "\(path): is a run that has not finished: resume it with granule train --resume --out \(path)"
      )
    }
    let folder = isInner ? "\(path)/\(inner)" : path
    let whole = try SparseAutoencoder(folder: folder)
    guard let latents = whole.core?.latents else {
      throw TrainingError(
        .unusable(input: folder),
        "\(folder) has no core: name a core that granule distill wrote, or a dictionary that was "
          + "trained with one")
    }
    dictionary = whole.standalone(granularity: latents)
    guard let distilled = dictionary.core else {
      throw TrainingError(.unusable(input: folder), "\(folder): the core is not a prefix")
    }
    self.distilled = distilled
    self.folder = folder
  }

  /// - Throws: `TrainingError` if it is not of the same place in the same language model as these
  ///   activations, as far as both say where they come from.
  func check(dModel: Int, languageModel: String, hook: HookPoint) throws(TrainingError) {
    guard dictionary.dModel == dModel else {
      throw TrainingError(
        .mismatch,
        "\(folder): the core has d_model \(dictionary.dModel), the activations have \(dModel)")
    }
    let provenance = dictionary.provenance
    for (what, own, theirs) in [
      ("hook", provenance.hook.name, hook.name),
      ("language model", provenance.languageModel, languageModel),
    ] where !own.isEmpty && !theirs.isEmpty && own != theirs {
      throw TrainingError(
        .mismatch,
        "\(folder): the core's \(what) is \(own), the activations' is \(theirs): a core is of use "
          + "only where it was found")
    }
  }
}
