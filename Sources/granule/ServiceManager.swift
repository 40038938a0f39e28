import Glibc

/// The service manager that started this process, such as systemd with `Type=notify`, if there is
/// one.
///
/// The protocol is the one that sd_notify(3) documents for programs that do not link libsystemd: one
/// datagram to the Unix socket that `NOTIFY_SOCKET` names.
struct ServiceManager: Sendable {
  private let path: String?

  /// The service manager that the environment names.
  init(environment: String? = getenv("NOTIFY_SOCKET").map { String(cString: $0) }) {
    path = environment
  }

  /// Tells the manager a change of state, such as `READY=1`.
  ///
  /// - Returns: whether it was told; the server goes on serving if it was not.
  @discardableResult
  func tell(_ state: String) -> Bool {
    var name = sockaddr_un()
    guard let path, path.hasPrefix("/") || path.hasPrefix("@"),
      path.utf8.count < MemoryLayout.size(ofValue: name.sun_path)
    else { return false }
    name.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &name.sun_path) { target in
      target.copyBytes(from: path.utf8)
      // A socket without a file.
      if path.hasPrefix("@") { target[0] = 0 }
    }
    let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    let start = MemoryLayout.offset(of: \sockaddr_un.sun_path) ?? MemoryLayout<sa_family_t>.size
    let length = socklen_t(start + path.utf8.count)
    var bytes = Array(state.utf8)
    let sent = withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        sendto(descriptor, &bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, length)
      }
    }
    return sent == bytes.count
  }
}
