package import GranuleFiles
internal import GranuleTensors

/// What the lines of a run's `metrics.jsonl` add up to, over all processes that trained it.
package struct TrainingTotals {
  /// Steps done.
  package private(set) var steps = 0
  /// Steps in which the core alone had more active latents than three quarters of k.
  package private(set) var flooredSteps = 0
  /// Seconds of training, without those between processes.
  package private(set) var seconds = 0.0
  /// The last validation.
  package private(set) var heldOut: ValidationMetrics?

  init() {}

  /// - Throws: `FileError` if the log cannot be read.
  package init(run: String) throws(FileError) {
    for line in try FileBytes.read("\(run)/\(MetricsLog.fileName)").text.split(separator: "\n") {
      if let json = try? StrictJSON.parse(String(line)), let record = MetricsRecord(json: json) {
        add(record)
      }
    }
  }

  mutating func add(_ record: MetricsRecord) {
    switch record {
    case .validation(let metrics): heldOut = metrics
    case .step(let metrics):
      steps += 1
      seconds = metrics.seconds
      if metrics.core?.exceedsK == true { flooredSteps += 1 }
    }
  }
}
