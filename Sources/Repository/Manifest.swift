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
  init(folder: String) throws(ModelRepositoryError) {
    let path = "\(folder)/\(Self.fileName)"
    func corrupt(_ fault: String) -> ModelRepositoryError { .corrupt(path: path, fault: fault) }
    let file: FileBytes
    do throws(FileError) {
      file = try FileBytes.read(path, byteCountMax: Self.bytesMax)
    } catch {
      throw corrupt(error.fault)
    }
    let root: JSONValue
    do throws(StrictJSONError) { root = try StrictJSON.parse(file.bytes) } catch {
      throw corrupt("is not valid JSON: \(error)")
    }
    guard let format = root["format"]?.integer else { throw corrupt("has no integer format") }
    guard format == Self.format else {
      throw corrupt("has format \(format), this Granule reads \(Self.format)")
    }
    guard let members = root["files"]?.members else { throw corrupt("has no object files") }
    files = []
    for member in members {
      guard !member.key.isEmpty, !member.key.contains("/"), !member.key.hasPrefix(".") else {
        throw corrupt("names a file '\(member.key.prefix(60))', plain names are needed")
      }
      guard let byteCount = member.value["bytes"]?.integer, byteCount >= 0,
        let sha256 = member.value["sha256"]?.string
      else { throw corrupt("\(member.key) has no bytes and sha256") }
      files.append((member.key, Entry(byteCount: byteCount, sha256: sha256)))
    }
    created = root["created"]?.string ?? ""
  }
}
