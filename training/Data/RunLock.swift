internal import Glibc
package import GranuleErrors

/// Holds the folder of a run or a harvest for this process: two that write the same checkpoints or
/// shards would spoil both.
package final class RunLock {
  private let descriptor: Int32

  package init(_ folder: String) throws(TrainingError) {
    let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw TrainingError("\(folder): \(String(cString: strerror(errno)))")
    }
    // Some network file systems have no locks: there it is left to whoever starts two.
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK else {
      close(descriptor)
      throw TrainingError("\(folder): another process is at work in it")
    }
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }
}
