internal import Glibc
package import GranuleData
internal import GranuleDictionary
internal import GranuleErrors

/// The dictionary folder and the activations that a path names: a run's, or a dictionary folder alone.
package struct DictionaryLocation {
  /// The dictionary's folder.
  package let folder: String
  /// Whether the path is a run, which knows its activations.
  package var isRun: Bool { run != nil }
  /// The run's folder; nil for a dictionary folder alone.
  private let run: String?

  /// - Throws: `TrainingError` if the path is neither, or is a run that has not finished.
  package init(_ path: String) throws {
    func exists(_ name: String) -> Bool {
      access("\(path)/\(name)", F_OK) == 0
    }
    if exists(DictionaryFiles.configName) {
      guard exists(DictionaryFiles.weightsName) else {
        throw TrainingError(
          .unusable(input: path),
          "\(path) has no \(DictionaryFiles.weightsName): convert other libraries' files with granule "
            + "import")
      }
      folder = path
      run = nil
      return
    }
    guard access(path, F_OK) == 0 else {
      throw TrainingError(.missing(path: path), "\(path) does not exist")
    }
    guard exists("config.json") else {
      throw TrainingError(
        .unusable(input: path),
        exists("distillation.json")
          ? "\(path) is a distillation: name its core/, or one of its cycles"
          : "\(path) is neither a dictionary folder (it has no cfg.json) nor a training run (it has "
            + "no config.json): convert other libraries' files with granule import")
    }
    let dictionary = "\(path)/\(Trainer.dictionaryFolderName)"
    guard access(dictionary, F_OK) == 0 else {
      throw TrainingError(
        .unfinished(path: path),
        "\(path) is a run that has not finished: continue it with granule train --resume --out "
          + path)
    }
    folder = dictionary
    run = path
  }

  /// Whether the run was trained on any of these activations; nil if that is not known: for a
  /// dictionary folder, and for a run whose activations are gone or have changed.
  package func wasTrained(on dataset: ActivationDataset) -> Bool? {
    guard let run, let own = try? FileActivations(run: run) else { return nil }
    return own.trained.overlaps(dataset)
  }

  /// The activations to evaluate on: those at `paths`, otherwise those that the run held out, or all
  /// of the run's if it held out none.
  ///
  /// - Parameter sequences: the sequences to use; nil for all.
  /// - Throws: `TrainingError` or `FileError` if there are none, or they cannot be read.
  package func activations(paths: [String], sequences: Range<Int>?) throws -> ActivationDataset {
    if paths.isEmpty, let run {
      if let sequences {
        let paths = try TrainingConfiguration(run: run).activations.paths
        return try ActivationDataset(paths: paths).selecting(sequences: sequences)
      }
      let own = try FileActivations(run: run)
      return own.heldOut ?? own.trained
    }
    guard !paths.isEmpty else {
      throw TrainingError(
        .missing(path: "activations"),
        "--activations: a dictionary folder has no activations of its own, name some")
    }
    let dataset = try ActivationDataset(paths: paths)
    return try sequences.map { try dataset.selecting(sequences: $0) } ?? dataset
  }

  /// Short names that tell the paths of dictionaries apart, for tables and legends: without the
  /// folders that all have in common, and without the name that every run gives its dictionary.
  package static func shortNames(_ paths: [String]) -> [String] {
    var names = paths.map { path in
      var parts = path.split(separator: "/").map(String.init)
      if parts.count > 1, parts.last == Trainer.dictionaryFolderName { parts.removeLast() }
      return parts.isEmpty ? [path] : parts
    }
    while let first = names[0].first, names.allSatisfy({ $0.count > 1 && $0[0] == first }) {
      for number in names.indices { names[number].removeFirst() }
    }
    return names.map { $0.joined(separator: "/") }
  }
}
