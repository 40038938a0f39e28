/// Why a command ends without its result; the message names the remedy.
package enum CommandError: Error, CustomStringConvertible, Sendable {
  /// The command line asks for something that cannot be; exit code 64.
  case usage(String)
  /// A file, dictionary or data set cannot be used as asked; exit code 1.
  case input(String)
  /// A file cannot be written; exit code 1.
  case output(String)
  /// The server does not do what was asked, or not now; exit code 1.
  case refused(String)
  /// A check that the command makes of its own result failed; exit code 1.
  case failedCheck(String)
  /// Ctrl-C or SIGTERM ended the work; exit code 130. The message, if there is one, says how to
  /// continue.
  case interrupted(String?)

  /// The message; empty for an interruption that needs none.
  package var description: String {
    switch self {
    case .usage(let message), .input(let message), .output(let message), .refused(let message),
      .failedCheck(let message):
      message
    case .interrupted(let message): message ?? ""
    }
  }
}
