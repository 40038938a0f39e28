internal import GranuleErrors
package import GranuleFiles

/// Files of JSON that runs, harvests and distillations keep.
package enum JSONFile {
  /// The longest file that is read; activations and text may be many files, each of them named.
  private static let bytesMax = 256 << 20

  /// Reads a file of JSON of at most 256 MiB.
  ///
  /// - Throws: `TrainingError` or `FileError` if it cannot be read.
  package static func read(_ path: String) throws -> JSONValue {
    let file = try FileBytes.read(path, byteCountMax: bytesMax)
    do throws(StrictJSONError) { return try StrictJSON.parse(file.bytes) } catch {
      throw TrainingError("\(path): is not valid JSON: \(error)")
    }
  }
}
