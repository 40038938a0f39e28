package import GranuleFiles

extension JSONReader {
  /// A file of JSON that a run, a harvest or a distillation keeps, of at most 256 MiB: activations and
  /// text may be many files, each of them named.
  ///
  /// - Throws: `FileError` if it cannot be read, or is not strictly valid JSON.
  package init(kept path: String) throws(FileError) {
    try self.init(contentsOf: path, byteCountMax: 256 << 20)
  }
}
