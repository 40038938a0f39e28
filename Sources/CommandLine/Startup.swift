package import ArgumentParser
import Glibc
import GranuleBLAS
import GranuleEncoder

extension AsyncParsableCommand {
  /// The `main` of an executable: prepares the process, runs the command and exits with its code.
  ///
  /// Everything that changes the process as a whole stands here and in `Interruption`; the libraries
  /// leave that to whoever embeds them.
  package static func start() async {
    // A peer that closes its connection must not end the process.
    signal(SIGPIPE, SIG_IGN)
    raiseOpenFileLimit()
    BLAS.configure()
    do {
      var command = try await asyncParseAsRoot(nil)
      if let complaint = EncoderCPU.complaint { throw CommandError.usage(complaint) }
      if var command = command as? any AsyncParsableCommand {
        try await command.run()
      } else {
        try command.run()
      }
    } catch CommandError.usage(let message) {
      exit(withError: ValidationError(message))
    } catch CommandError.interrupted(let message) {
      if let message { printError(message) }
      exit(withError: ExitCode(Interruption.exitCode))
    } catch {
      exit(withError: error)
    }
  }

  /// Raises the number of files that may be open to what the system allows: each connection of a
  /// server is one.
  private static func raiseOpenFileLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }
}
