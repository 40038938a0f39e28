internal import Glibc
internal import StrictJSON
internal import Tensors

/// `RUN/metrics.jsonl`: one JSON object a line, appended as training goes.
final class MetricsLog {
  static let fileName = "metrics.jsonl"
  private let file: UnsafeMutablePointer<FILE>
  private let path: String

  /// Opens the log of a run, dropping lines of steps after `step`: they are taken again.
  ///
  /// - Throws: `TensorFileError` where it cannot be read or written.
  init(run: String, keepingStepsUpTo step: Int) throws(TensorFileError) {
    path = "\(run)/\(Self.fileName)"
    if access(path, F_OK) == 0 {
      let kept = try FileBytes.read(path).text.split(separator: "\n").filter { line in
        guard let logged = (try? StrictJSON.parse(String(line)))?["step"]?.integer else {
          return false  // a line that a crash cut short
        }
        return logged <= step
      }
      try DurableFile.replace(path, with: kept.map { $0 + "\n" }.joined())
    }
    guard let file = fopen(path, "ae") else {
      throw TensorFileError(file: path, fault: String(cString: strerror(errno)))
    }
    self.file = file
  }

  deinit { fclose(file) }

  /// Appends a line and hands it to the system.
  ///
  /// - Throws: `TensorFileError` with the system's reason, say a full disk.
  func append(_ members: [JSONValue.Member]) throws(TensorFileError) {
    let line = StrictJSON.text(.object(members)) + "\n"
    guard fputs(line, file) >= 0, fflush(file) == 0 else {
      throw TensorFileError(file: path, fault: String(cString: strerror(errno)))
    }
  }
}
