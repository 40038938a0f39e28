internal import Glibc
internal import GranuleErrors
package import GranuleFiles
internal import GranuleTensors

/// The activations that a run began with, `activations.json` in its folder: if files were added to them
/// or changed, the order of tokens and what is held out would be others.
package struct RunActivations {
  static let fileName = "activations.json"

  private struct File: Equatable {
    var fingerprint: Fingerprint
    var tokens: Int
  }

  private let files: [File]

  package init(_ dataset: ActivationDataset) {
    files = dataset.files.map {
      File(fingerprint: Fingerprint(sampling: $0.contents), tokens: $0.tokens)
    }
  }

  package func write(to folder: String) throws(FileError) {
    let files = files.map { file -> JSONValue in
      guard case .sample(let byteCount, let sha256) = file.fingerprint.evidence else {
        preconditionFailure("activations are known by samples")
      }
      return [
        "file": .string(file.fingerprint.path), "bytes": JSONValue(byteCount),
        "tokens": JSONValue(file.tokens), "sample_sha256": .string(sha256),
      ]
    }
    let root = JSONValue.object([.init("format", 1), .init("files", .array(files))])
    try DurableFile.replace(
      "\(folder)/\(Self.fileName)", with: StrictJSON.text(root, indented: true) + "\n")
  }

  /// Reads what a run's folder, or a distillation's, says; nil if it is of before it was written.
  ///
  /// - Throws: `TrainingError` or `FileError` if it is damaged.
  init?(folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    guard access(path, F_OK) == 0 else { return nil }
    let root = try JSONReader(kept: path)
    try root.requireFormat(1)
    files = try root.required("files").elements().map { json throws(FileError) in
      File(
        fingerprint: Fingerprint(
          path: try json.required("file").string(),
          evidence: .sample(
            byteCount: try json.required("bytes").integer(),
            sha256: try json.required("sample_sha256").string())),
        tokens: try json.required("tokens").integer())
    }
  }

  /// - Throws: `TrainingError` if the activations in a run's folder's list are not these, saying what
  ///   changed.
  package static func check(_ dataset: ActivationDataset, of folder: String) throws {
    guard let begun = try RunActivations(folder: folder) else { return }
    guard let change = begun.change(to: RunActivations(dataset)) else { return }
    throw TrainingError(
      .changed(path: folder),
      "\(folder): its activations differ from those that it began with: \(change). Restore them, or "
        + "begin another run with those that there are now")
  }

  /// What is different in `now`, nil if nothing is. Files may have moved.
  private func change(to now: RunActivations) -> String? {
    func contents(_ file: File) -> File {
      File(
        fingerprint: Fingerprint(path: "", evidence: file.fingerprint.evidence),
        tokens: file.tokens)
    }
    if files.map(contents) == now.files.map(contents) { return nil }
    for file in now.files {
      let before = files.first { $0.fingerprint.path == file.fingerprint.path }
      if let before, before.tokens != file.tokens {
        return "\(file.fingerprint.path) has \(file.tokens) tokens, it had \(before.tokens)"
      }
    }
    let changes = Fingerprint.changes(
      from: files.map(\.fingerprint), to: now.files.map(\.fingerprint))
    guard let first = changes.first else { return nil }
    return changes.count == 1 ? first : "\(first), and \(changes.count - 1) more changes"
  }
}
