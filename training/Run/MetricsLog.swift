internal import Glibc
internal import GranuleFiles
internal import GranuleTensors

/// A run's metrics in two files: `RUN/metrics.jsonl`, one JSON object a line, appended as training goes;
/// and the same numbers for TensorBoard in `RUN/tensorboard/`, written anew from those lines whenever a
/// run is resumed.
final class MetricsLog {
  static let fileName = "metrics.jsonl"
  static let eventFolderName = "tensorboard"
  /// TensorBoard looks for files with `tfevents` in their names.
  static let eventFileName = "events.out.tfevents.granule"
  private let file: UnsafeMutablePointer<FILE>
  private let path: String
  private let events: EventFile
  /// What the lines so far add up to.
  private(set) var totals = TrainingTotals()
  private let secondsBefore: Double
  private let start = ContinuousClock.now

  /// Opens the log of a run and drops the lines of steps after `step`, which are taken again.
  ///
  /// - Throws: `FileError` if it cannot be read or written.
  init(run: String, keepingStepsUpTo step: Int) throws(FileError) {
    path = "\(run)/\(Self.fileName)"
    var kept: [(text: Substring, record: MetricsRecord?, time: Double)] = []
    if access(path, F_OK) == 0 {
      let text = try FileBytes.read(path).text
      for line in text.split(separator: "\n") {
        // A crash may have cut the last line short.
        guard let parsed = try? StrictJSON.parse(String(line)),
          let logged = parsed["step"]?.integer, logged <= step
        else { continue }
        kept.append((line, MetricsRecord(json: parsed), parsed["time"]?.number ?? Self.now))
      }
      try DurableFile.replace(path, with: kept.map { $0.text + "\n" }.joined())
    }
    let folder = "\(run)/\(Self.eventFolderName)"
    try Folder.make(folder)
    events = try EventFile(
      path: "\(folder)/\(Self.eventFileName)", seconds: kept.first?.time ?? Self.now)
    for case (_, let record?, let time) in kept {
      try events.append(record, seconds: time)
      totals.add(record)
    }
    secondsBefore = totals.seconds
    guard let file = fopen(path, "ae") else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    self.file = file
  }

  deinit { fclose(file) }

  /// Seconds of training since the run began, without those between processes.
  var seconds: Double { secondsBefore + (ContinuousClock.now - start) / .seconds(1) }

  /// Appends a record, with the time, and hands it to the system.
  ///
  /// - Throws: `FileError` with the system's reason, such as a full disk.
  func append(_ record: MetricsRecord) throws(FileError) {
    let time = Self.now
    guard fputs(StrictJSON.text(record.json(time: time)) + "\n", file) >= 0, fflush(file) == 0
    else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    try events.append(record, seconds: time)
    totals.add(record)
  }

  /// Seconds since 1970.
  private static var now: Double {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
  }
}
