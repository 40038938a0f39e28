import GranuleData
import GranuleRun

// Runs on the files that their configurations name.
extension Trainer {
  convenience init(_ configuration: TrainingConfiguration, run: String) throws {
    try self.init(
      configuration, source: FileActivations(configuration.activations), run: run)
  }

  convenience init(resuming run: String) throws {
    try self.init(resuming: run, source: FileActivations(run: run))
  }
}
