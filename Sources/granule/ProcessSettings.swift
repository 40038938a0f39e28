import Glibc

/// What commands set for the whole process; the libraries change nothing of it.
enum ProcessSettings {
  /// Lets writing to a pipe or socket whose reader has gone fail, instead of ending the process.
  static func ignoreBrokenPipes() { signal(SIGPIPE, SIG_IGN) }

  /// Raises the limit on open files to what the system allows: each connection is one.
  static func raiseOpenFilesLimit() {
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    var limit = rlimit()
    guard getrlimit(resource, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(resource, &limit)
  }
}
