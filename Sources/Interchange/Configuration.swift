internal import GranuleFiles

extension JSONReader {
  /// Beyond any dictionary, and small enough that the bytes of a product of two sizes fit 63 bits.
  static let sizeMax = 1 << 28

  /// A library's JSON configuration.
  ///
  /// - Throws: `FileError` if the file is missing, not JSON or not an object.
  init(configuration path: String) throws(FileError) {
    try self.init(contentsOf: path, byteCountMax: 16 << 20)
    _ = try members()
  }

  /// A truth value, false if the key is missing.
  ///
  /// - Throws: `FileError` if the value is of another kind.
  func flag(_ key: String) throws(FileError) -> Bool { try optional(key)?.bool() ?? false }
}
