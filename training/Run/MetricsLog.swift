internal import Glibc
internal import GranuleFiles
internal import GranuleTensors

/// `RUN/metrics.jsonl`, one JSON object a line, appended as training goes; and the same numbers for
/// TensorBoard in `RUN/tensorboard/`, made anew from those lines whenever a run is taken up.
final class MetricsLog {
  static let fileName = "metrics.jsonl"
  static let eventFolderName = "tensorboard"
  /// TensorBoard looks for files with `tfevents` in their names.
  static let eventFileName = "events.out.tfevents.granule"
  private let file: UnsafeMutablePointer<FILE>
  private let path: String
  private let events: EventFile
  /// Of the lines so far.
  private(set) var totals = TrainingTotals()
  private let secondsBefore: Double
  private let start = ContinuousClock.now

  /// Opens the log of a run, dropping lines of steps after `step`: they are taken again.
  ///
  /// - Throws: `FileError` where it cannot be read or written.
  init(run: String, keepingStepsUpTo step: Int) throws(FileError) {
    path = "\(run)/\(Self.fileName)"
    var kept: [(text: Substring, line: JSONValue)] = []
    if access(path, F_OK) == 0 {
      let text = try FileBytes.read(path).text
      for line in text.split(separator: "\n") {
        // None of a line that a crash cut short.
        guard let parsed = try? StrictJSON.parse(String(line)),
          let logged = parsed["step"]?.integer, logged <= step
        else { continue }
        kept.append((line, parsed))
      }
      try DurableFile.replace(path, with: kept.map { $0.text + "\n" }.joined())
    }
    let folder = "\(run)/\(Self.eventFolderName)"
    try Folder.make(folder)
    events = try EventFile(
      path: "\(folder)/\(Self.eventFileName)",
      seconds: kept.first?.line["time"]?.number ?? Self.now)
    for entry in kept {
      try events.append(entry.line)
      totals.add(entry.line)
    }
    secondsBefore = totals.seconds
    guard let file = fopen(path, "ae") else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    self.file = file
  }

  deinit { fclose(file) }

  /// Seconds that the run has been trained for, without those between processes.
  var seconds: Double { secondsBefore + (ContinuousClock.now - start) / .seconds(1) }

  /// Appends a line, with the time, and hands it to the system.
  ///
  /// - Throws: `FileError` with the system's reason, say a full disk.
  func append(_ members: [JSONValue.Member]) throws(FileError) {
    let line = JSONValue.object(members + [.init("time", JSONValue(Self.now))])
    guard fputs(StrictJSON.text(line) + "\n", file) >= 0, fflush(file) == 0 else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    try events.append(line)
    totals.add(line)
  }

  /// Seconds since 1970.
  private static var now: Double {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
  }
}
