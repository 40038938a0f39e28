internal import GranuleFiles
internal import GranuleTensors

/// `manifest.json` of a published version: `{"format": 1, "files": {NAME: {"bytes": …, "sha256":
/// …}}, "created": …}`. It is written last, so a version that has one is complete.
struct Manifest: Sendable {
  static let fileName = "manifest.json"
  static let format = 1
  static let bytesMax = 1 << 20

  struct Entry: Sendable {
    var byteCount: Int
    var sha256: String
  }

  /// The files of the version, by name.
  var files: [(name: String, entry: Entry)]
  /// When it was published, ISO 8601, UTC.
  var created: String

  var text: String {
    let entries = files.map { file in
      JSONValue.Member(
        file.name,
        ["bytes": JSONValue(file.entry.byteCount), "sha256": .string(file.entry.sha256)])
    }
    let root: JSONValue = [
      "format": JSONValue(Self.format), "files": .object(entries), "created": .string(created),
    ]
    return StrictJSON.text(root, indented: true) + "\n"
  }

  init(files: [(name: String, entry: Entry)], created: String) {
    self.files = files
    self.created = created
  }

  /// Reads the manifest of the version in `folder`.
  ///
  /// - Throws: `ModelRepositoryError.corrupt` if it is missing or malformed.
  init(folder: String) throws(ModelRepositoryError) {
    do throws(FileError) {
      try self.init(
        JSONReader(contentsOf: "\(folder)/\(Self.fileName)", byteCountMax: Self.bytesMax))
    } catch {
      throw .corrupt(error)
    }
  }

  private init(_ root: JSONReader) throws(FileError) {
    try root.requireFormat(Self.format)
    files = []
    for (name, entry) in try root.required("files").members() {
      guard !name.isEmpty, !name.contains("/"), !name.hasPrefix(".") else {
        throw root.fault("names a file '\(name.prefix(60))', plain names are needed")
      }
      files.append(
        (
          name,
          Entry(
            byteCount: try entry.required("bytes").integer(in: 0 ... .max),
            sha256: try entry.required("sha256").string())
        ))
    }
    created = root["created"]?.value.string ?? ""
  }
}
