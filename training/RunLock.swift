internal import Glibc

/// Holds a run's folder for this process: two that write the same checkpoints would spoil both.
final class RunLock {
  private let descriptor: Int32

  init(_ run: String) throws(TrainingError) {
    let descriptor = open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw TrainingError("\(run): \(String(cString: strerror(errno)))")
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      throw TrainingError("\(run): another process is training this run")
    }
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }
}
