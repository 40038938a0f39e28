public import Foundation

/// Unix sockets that a test works by hand, which its own client or server would not.
public enum UnixSocket {
  /// A descriptor, bound to `path`, that the caller closes.
  ///
  /// - Throws: POSIXError.
  public static func bound(to path: String, type: __socket_type) throws -> Int32 {
    try open(path, type, bind)
  }

  /// A descriptor, connected to who listens at `path`, that the caller closes.
  ///
  /// - Throws: POSIXError.
  public static func connected(to path: String, type: __socket_type) throws -> Int32 {
    try open(path, type, connect)
  }

  private static func open(
    _ path: String, _ type: __socket_type,
    _ attach: (Int32, UnsafePointer<sockaddr>?, socklen_t) -> Int32
  ) throws -> Int32 {
    let descriptor = socket(AF_UNIX, Int32(type.rawValue), 0)
    var name = sockaddr_un()
    name.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: path.utf8) }
    let code = withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        attach(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard code == 0 else {
      let error = POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
      close(descriptor)
      throw error
    }
    return descriptor
  }
}
