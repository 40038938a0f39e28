import Foundation
import GranuleDictionary
import GranuleTraining

/// Where a command's argument, a run or a dictionary folder, has its dictionary and activations.
struct DictionaryLocation {
  /// The dictionary's folder.
  let folder: String
  /// Whether it is a run, which knows its activations.
  var isRun: Bool { run != nil }
  /// The run's folder.
  private let run: String?

  /// - Throws: `TrainingError` where the path is neither, or a run that has not finished.
  init(_ path: String) throws {
    func exists(_ name: String) -> Bool {
      FileManager.default.fileExists(atPath: "\(path)/\(name)")
    }
    if exists(DictionaryFiles.configName) {
      guard exists(DictionaryFiles.weightsName) else {
        throw TrainingError(
          .unusable(input: path),
          "\(path) has no \(DictionaryFiles.weightsName): granule import reads what other libraries "
            + "than SAELens wrote")
      }
      folder = path
      run = nil
      return
    }
    guard FileManager.default.fileExists(atPath: path) else {
      throw TrainingError(.missing(path: path), "\(path) does not exist")
    }
    guard exists("config.json") else {
      throw TrainingError(
        .unusable(input: path),
        exists("distillation.json")
          ? "\(path) is a distillation: name its core/, or one of its cycles"
          : "\(path) is no dictionary folder (it has no cfg.json) and no training run (no "
            + "config.json); granule import reads what other libraries wrote")
    }
    let dictionary = "\(path)/\(Trainer.dictionaryFolderName)"
    guard FileManager.default.fileExists(atPath: dictionary) else {
      throw TrainingError(
        .unfinished(path: path),
        "\(path) is a run that has not finished: go on with granule train --resume --out \(path)")
    }
    folder = dictionary
    run = path
  }

  /// Whether the run was trained on any of these activations; nil where that is not known, as of a
  /// dictionary folder, or of a run whose activations are gone or have changed.
  func wasTrained(on dataset: ActivationDataset) -> Bool? {
    guard let run, let own = try? FileActivations(run: run) else { return nil }
    return own.trained.overlaps(dataset)
  }

  /// The activations to evaluate on: those given, else the run's own that it held out, all where it
  /// held out none.
  func activations(paths: [String], sequences: Range<Int>?) throws -> ActivationDataset {
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
        "--activations: a dictionary folder has none of its own, name some")
    }
    let dataset = try ActivationDataset(paths: paths)
    return try sequences.map { try dataset.selecting(sequences: $0) } ?? dataset
  }

  /// What tells paths of dictionaries apart, for tables and legends: without the folders that all
  /// have in common, and without the name that every run gives its dictionary.
  static func shortNames(_ paths: [String]) -> [String] {
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
