package import GranuleFiles
internal import GranuleTensors

/// What the lines of a run's `metrics.jsonl` add up to, over all processes that trained it.
package struct TrainingTotals {
  /// Steps done.
  package private(set) var steps = 0
  /// Steps in which the core alone had so many active latents that the others were given a quarter of k.
  package private(set) var flooredSteps = 0
  /// Seconds of training, without those between processes.
  package private(set) var seconds = 0.0
  /// The last validation.
  package private(set) var heldOut: (step: Int, fvu: Double)?

  init() {}

  /// - Throws: `FileError` where the log cannot be read.
  package init(run: String) throws(FileError) {
    for line in try FileBytes.read("\(run)/\(MetricsLog.fileName)").text.split(separator: "\n") {
      if let parsed = try? StrictJSON.parse(String(line)) { add(parsed) }
    }
  }

  mutating func add(_ line: JSONValue) {
    if let total = line["seconds"]?.number { seconds = total }
    if let step = line["step"]?.integer, let fvu = line["held_out_fvu"]?.number {
      heldOut = (step, fvu)
    }
    guard line["loss"] != nil else { return }
    steps += 1
    if line["core_exceeds_k"]?.bool == true { flooredSteps += 1 }
  }
}
