import CLibUV
import Glibc

/// Accepts connections at an address.
public final class Listener: LoopHandle {
  /// Connections that the system holds until they are accepted.
  private static let backlog: Int32 = 511

  private let isUnix: Bool
  private var accepted: ((ByteStream) -> Void)?
  /// The address, with the port that was picked if 0 was asked for.
  public private(set) var address: SocketAddress

  /// Listens at `address`, or at the first of several numbers of its host's name, and hands every
  /// connection to `accepted`, which sets a handler and starts reading, or closes it.
  ///
  /// A socket file at which nobody answers is replaced. With `ownerOnly` only the user who runs this
  /// process may connect to a Unix socket.
  public init(
    loop: EventLoop, address: SocketAddress, ownerOnly: Bool = false,
    accepted: @escaping (ByteStream) -> Void
  ) throws(EventLoopError) {
    self.address = address
    self.accepted = accepted
    isUnix = if case .unix = address { true } else { false }
    let resolved = try address.resolve()
    super.init(
      loop: loop, byteCount: max(MemoryLayout<uv_tcp_t>.size, MemoryLayout<uv_pipe_t>.size))
    let operation = "listen on \(address)"
    try check(
      isUnix
        ? uv_pipe_init(loop.raw, cast(to: uv_pipe_t.self), 0)
        : uv_tcp_init(loop.raw, cast(to: uv_tcp_t.self)), operation)
    didInitialize()
    do throws(EventLoopError) {
      try bind(resolved, operation: operation, ownerOnly: ownerOnly)
      try check(
        uv_listen(cast(to: uv_stream_t.self), Self.backlog) { handle, code in
          if code == 0 { owner(of: handle, as: Listener.self)?.accept() }
        }, operation)
      try findPort(operation: operation)
    } catch {
      close()
      throw error
    }
  }

  private func bind(_ resolved: [ResolvedAddress], operation: String, ownerOnly: Bool)
    throws(EventLoopError)
  {
    if case .unix(let path) = address {
      try removeStaleSocket(at: path, operation: operation)
      try check(uv_pipe_bind(cast(to: uv_pipe_t.self), path), operation)
      // Connections are possible only after listen, so other users can never connect.
      if ownerOnly, chmod(path, 0o600) != 0 {
        throw EventLoopError(operation: operation, reason: String(cString: strerror(errno)))
      }
      return
    }
    guard let first = resolved.first else {
      throw EventLoopError(operation: operation, reason: "no such address")
    }
    try check(first.withPointer { uv_tcp_bind(cast(to: uv_tcp_t.self), $0, 0) }, operation)
  }

  private func findPort(operation: String) throws(EventLoopError) {
    guard case .tcp(let host, _) = address else { return }
    var storage = sockaddr_storage()
    var length = Int32(MemoryLayout<sockaddr_storage>.size)
    let code = withUnsafeMutablePointer(to: &storage) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        uv_tcp_getsockname(cast(to: uv_tcp_t.self), $0, &length)
      }
    }
    try check(code, operation)
    // The port lies at the same place in IPv4 and IPv6 addresses.
    let port = withUnsafeBytes(of: storage) { $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self) }
    address = .tcp(host: host, port: UInt16(bigEndian: port))
  }

  private func accept() {
    guard isOpen, let accepted else { return }
    do throws(EventLoopError) {
      let stream = try ByteStream(loop: loop, isUnix: isUnix)
      do throws(EventLoopError) {
        try stream.accept(from: cast(to: uv_stream_t.self))
      } catch {
        // The peer has gone again.
        return stream.close()
      }
      accepted(stream)
    } catch {
      // No socket could be made; the connection waits, and is offered again with the next.
    }
  }

  override func didClose() { accepted = nil }
}

/// Removes a socket file that a process left behind. A socket at which somebody answers, or any other
/// file, is an error.
private func removeStaleSocket(at path: String, operation: String) throws(EventLoopError) {
  var status = stat()
  guard lstat(path, &status) == 0 else { return }
  guard status.st_mode & S_IFMT == S_IFSOCK else {
    throw EventLoopError(operation: operation, reason: "the file exists and is not a socket")
  }
  let probe = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard probe >= 0 else {
    throw EventLoopError(operation: operation, reason: String(cString: strerror(errno)))
  }
  defer { close(probe) }
  var name = sockaddr_un()
  name.sun_family = sa_family_t(AF_UNIX)
  withUnsafeMutableBytes(of: &name.sun_path) { target in
    target.copyBytes(from: path.utf8.prefix(SocketAddress.unixPathBytesMax))
  }
  let code = withUnsafePointer(to: &name) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      connect(probe, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
    }
  }
  guard code != 0 else {
    throw EventLoopError(operation: operation, reason: "another process listens there")
  }
  guard errno == ECONNREFUSED else {
    throw EventLoopError(
      operation: operation,
      reason:
        "the socket that is there cannot be tried: \(String(cString: strerror(errno))); remove it if no server runs"
    )
  }
  guard unlink(path) == 0 else {
    throw EventLoopError(operation: operation, reason: String(cString: strerror(errno)))
  }
}
