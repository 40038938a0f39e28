package import GranuleFiles

// Files of text, and what they held when they were harvested or a distillation began.
extension Fingerprint {
  /// The files that paths stand for, folders among them, as they are now.
  ///
  /// - Throws: `TrainingError` or `FileError` if there is none, or one cannot be read.
  package static func text(_ paths: [String]) throws -> [Fingerprint] {
    try HarvestConfiguration.textFiles(paths).map { try Fingerprint(digesting: $0) }
  }

  /// A file of text as a list of JSON has it.
  ///
  /// - Throws: `FileError` if a member is missing or malformed.
  package init(text json: JSONReader) throws(FileError) {
    self.init(
      path: try json.required("file").string(),
      evidence: .digest(sha256: try json.required("sha256").string()))
  }

  /// What `init(text:)` reads.
  package var textJSON: JSONValue { ["file": .string(path), "sha256": .string(sha256 ?? "")] }
}
