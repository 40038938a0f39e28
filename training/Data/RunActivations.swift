internal import Glibc
internal import GranuleErrors
package import GranuleFiles
internal import GranuleTensors

/// The activations that a run was begun on, `activations.json` in its folder: were files added to them
/// or changed, the order of tokens and what is held out would be others.
package struct RunActivations {
  static let fileName = "activations.json"
  /// Of a file's bytes so many stretches, at even distances, make its digest: all would take as long as
  /// reading all activations.
  private static let stretches = 16
  private static let stretchBytes = 4096

  private struct File {
    var path: String
    var bytes: Int
    var tokens: Int
    /// SHA-256 of the stretches.
    var sampleSHA256: String

    func hasSameContents(as other: File) -> Bool {
      bytes == other.bytes && tokens == other.tokens && sampleSHA256 == other.sampleSHA256
    }
  }

  private let files: [File]

  package init(_ dataset: ActivationDataset) {
    files = dataset.files.map { file in
      withExtendedLifetime(file.contents) {
        File(
          path: file.path, bytes: file.contents.bytes.count, tokens: file.tokens,
          sampleSHA256: Self.sampleDigest(file.contents.bytes))
      }
    }
  }

  private static func sampleDigest(_ bytes: UnsafeRawBufferPointer) -> String {
    let last = bytes.count - stretchBytes
    guard last > stretches * stretchBytes else { return Digest.sha256(bytes) }
    var sample: [UInt8] = []
    for number in 0..<stretches {
      let start = last / (stretches - 1) * number
      sample += bytes[start..<start + stretchBytes]
    }
    return sample.withUnsafeBytes { Digest.sha256($0) }
  }

  package func write(to folder: String) throws(FileError) {
    let files = files.map { file -> JSONValue in
      .object([
        .init("file", .string(file.path)), .init("bytes", JSONValue(file.bytes)),
        .init("tokens", JSONValue(file.tokens)),
        .init("sample_sha256", .string(file.sampleSHA256)),
      ])
    }
    let root = JSONValue.object([.init("format", 1), .init("files", .array(files))])
    try DurableFile.replace(
      "\(folder)/\(Self.fileName)", with: StrictJSON.text(root, indented: true) + "\n")
  }

  /// Reads what a run's folder, or a distillation's, says; nil where it is of before it was written.
  ///
  /// - Throws: `TrainingError` or `FileError` where it is damaged.
  init?(folder: String) throws {
    let path = "\(folder)/\(Self.fileName)"
    guard access(path, F_OK) == 0 else { return nil }
    let root = try JSONFile.read(path)
    guard root["format"]?.integer == 1, let stored = root["files"]?.elements else {
      throw TrainingError("\(path): is no list of activations of format 1")
    }
    files = try stored.map { json throws(TrainingError) in
      guard let file = json["file"]?.string, let bytes = json["bytes"]?.integer,
        let tokens = json["tokens"]?.integer, let digest = json["sample_sha256"]?.string
      else { throw TrainingError("\(path): a file has no file, bytes, tokens or sample_sha256") }
      return File(path: file, bytes: bytes, tokens: tokens, sampleSHA256: digest)
    }
  }

  /// - Throws: `TrainingError` where the activations in a run's folder's list are not these, saying what
  ///   changed.
  package static func check(_ dataset: ActivationDataset, of folder: String) throws {
    guard let begun = try RunActivations(folder: folder) else { return }
    guard let change = begun.change(to: RunActivations(dataset)) else { return }
    throw TrainingError(
      "\(folder): its activations are not those that it was begun on: \(change). Restore them, or "
        + "begin another run on what there is now")
  }

  /// What is different in `now`, nil where nothing is. Files may have moved.
  private func change(to now: RunActivations) -> String? {
    let isSame =
      files.count == now.files.count
      && zip(files, now.files).allSatisfy { $0.hasSameContents(as: $1) }
    if isSame { return nil }
    let old = Dictionary(files.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    let paths = Set(now.files.map(\.path))
    var changes: [String] = []
    for file in now.files {
      guard let before = old[file.path] else {
        changes.append("\(file.path) was added")
        continue
      }
      if before.tokens != file.tokens {
        changes.append("\(file.path) has \(file.tokens) tokens, it had \(before.tokens)")
      } else if !before.hasSameContents(as: file) {
        changes.append("\(file.path) has other contents")
      }
    }
    changes += files.filter { !paths.contains($0.path) }.map { "\($0.path) is gone" }
    guard let first = changes.first else { return "the files' order is another" }
    return changes.count == 1 ? first : "\(first), and \(changes.count - 1) more changes"
  }
}
