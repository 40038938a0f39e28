import Foundation
import GranuleRepository
import TestSupport
import Testing

/// A Unix datagram socket at which a service manager listens.
private final class NotifySocket {
  let path: String
  private let descriptor: Int32

  init(path: String) throws {
    self.path = path
    descriptor = try UnixSocket.bound(to: path, type: SOCK_DGRAM)
    // A test that waits for what never comes fails instead of hanging.
    var limit = timeval(tv_sec: 600, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  /// Waits for the next message; nil where none comes.
  func receive() -> String? {
    var bytes = [UInt8](repeating: 0, count: 256)
    var count = 0
    repeat { count = recv(descriptor, &bytes, bytes.count, 0) } while count < 0 && errno == EINTR
    return count >= 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
  }
}

@Suite struct ServiceTests {
  @Test("a service manager is told when the server is ready, and when it stops")
  func notification() throws {
    let folder = try TemporaryFolder()
    try FileManager.default.createDirectory(
      atPath: "\(folder.path)/models", withIntermediateDirectories: true)
    let manager = try NotifySocket(path: "\(folder.path)/notify")
    let server = try CommandProcess(
      [
        "serve", "--repository", "\(folder.path)/models", "--listen", "127.0.0.1:0", "--http",
        "127.0.0.1:0",
      ], environment: ["NOTIFY_SOCKET": manager.path])
    #expect(manager.receive() == "READY=1")
    #expect(server.nextOutput().contains("metrics at http://127.0.0.1:"))
    #expect(server.end(SIGTERM) == 0)
    #expect(manager.receive() == "STOPPING=1")
  }

  @Test("a service manager that cannot be reached does not keep the server from serving")
  func unreachable() throws {
    let folder = try TemporaryFolder()
    for socket in ["\(folder.path)/none", "@granule-test-none", "nonsense", ""] {
      let server = try CommandProcess(
        ["serve", "--repository", folder.path, "--listen", "127.0.0.1:0"],
        environment: ["NOTIFY_SOCKET": socket])
      #expect(server.nextOutput().contains("serving"), "\(socket)")
      #expect(server.end(SIGTERM) == 0, "\(socket)")
    }
  }
}
