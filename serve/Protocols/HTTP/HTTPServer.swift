import CMicroHTTPD
import Glibc
public import GranuleTransport

/// The answer to a GET request.
public struct HTTPResponse: Sendable {
  /// The status code, such as 200.
  public var status: UInt32
  /// Value of the Content-Type header.
  public var contentType: String
  /// The whole body.
  public var body: String

  /// A response.
  public init(status: UInt32 = 200, contentType: String = "text/plain; charset=utf-8", body: String)
  {
    self.status = status
    self.contentType = contentType
    self.body = body
  }
}

/// Answers GET and HEAD over HTTP/1.1, by libmicrohttpd, on one thread of its own.
///
/// It is made for a few scrapers and probes: requests are answered one after the other, each answer ends
/// its connection, and nothing of a request but its method and path is read.
public final class HTTPServer: @unchecked Sendable {
  // Safe to share: what changes is touched under libmicrohttpd's own locks, or in `stop`, which is
  // called once.

  /// Address at which it answers, with the port that was picked if 0 was asked for.
  public let address: SocketAddress
  private let daemon: OpaquePointer
  private let routes: Unmanaged<Routes>

  /// Starts answering at a TCP address; if the host is a name with several numbers, at the first.
  ///
  /// - Parameters:
  ///   - connectionsMax: connections at once; further ones wait to be accepted.
  ///   - idleSeconds: how long a connection may stay without traffic.
  ///   - answer: gives the response for a path such as `/metrics`, or nil if there is none; called
  ///     on the server's thread.
  /// - Throws: `EventLoopError` if the address is not a TCP address, or cannot be used.
  public init(
    address: SocketAddress, connectionsMax: Int, idleSeconds: Int,
    answer: @escaping @Sendable (_ path: String) -> HTTPResponse?
  ) throws(EventLoopError) {
    let (descriptor, bound) = try listen(at: address)
    let routes = Unmanaged.passRetained(Routes(answer: answer))
    let options: [any CVarArg] = [
      MHD_OPTION.LISTEN_SOCKET.rawValue, descriptor,
      MHD_OPTION.CONNECTION_LIMIT.rawValue, UInt32(clamping: connectionsMax),
      MHD_OPTION.CONNECTION_TIMEOUT.rawValue, UInt32(clamping: idleSeconds),
      MHD_OPTION.END.rawValue,
    ]
    let daemon = withVaList(options) {
      MHD_start_daemon_va(
        MHD_USE_AUTO.rawValue | MHD_USE_INTERNAL_POLLING_THREAD.rawValue, 0, nil, nil, respond,
        routes.toOpaque(), $0)
    }
    guard let daemon else {
      close(descriptor)
      routes.release()
      throw EventLoopError(
        operation: "answer HTTP on \(address)", reason: "libmicrohttpd cannot start")
    }
    self.address = bound
    self.daemon = daemon
    self.routes = routes
  }

  /// Ends the request under way and the thread; to be called once.
  public func stop() {
    MHD_stop_daemon(daemon)
    routes.release()
  }
}

private final class Routes: Sendable {
  let answer: @Sendable (String) -> HTTPResponse?
  init(answer: @escaping @Sendable (String) -> HTTPResponse?) { self.answer = answer }
}

/// libmicrohttpd's call for each request.
private func respond(
  routes: UnsafeMutableRawPointer?, connection: OpaquePointer?, path: UnsafePointer<CChar>?,
  method: UnsafePointer<CChar>?, version: UnsafePointer<CChar>?, body: UnsafePointer<CChar>?,
  bodyBytes: UnsafeMutablePointer<Int>?, context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> MHD_Result {
  guard let routes, let path, let method else { return .NO }
  guard ["GET", "HEAD"].contains(String(cString: method)) else {
    return send(HTTPResponse(status: 405, body: "only GET and HEAD are answered\n"), connection)
  }
  let answer = Unmanaged<Routes>.fromOpaque(routes).takeUnretainedValue().answer
  let response = answer(String(cString: path))
  return send(response ?? HTTPResponse(status: 404, body: "no such path\n"), connection)
}

private func send(_ response: HTTPResponse, _ connection: OpaquePointer?) -> MHD_Result {
  var body = response.body
  let made = body.withUTF8 {
    // The bytes are copied, so that nothing writes to them.
    MHD_create_response_from_buffer(
      $0.count, UnsafeMutableRawPointer(mutating: $0.baseAddress), .RESPMEM_MUST_COPY)
  }
  guard let made else { return .NO }
  defer { MHD_destroy_response(made) }
  MHD_add_response_header(made, "Content-Type", response.contentType)
  // Connections that are kept for later requests would keep a probe waiting for a place.
  MHD_add_response_header(made, "Connection", "close")
  if response.status == 405 { MHD_add_response_header(made, "Allow", "GET, HEAD") }
  return MHD_queue_response(connection, response.status, made)
}

/// A socket that listens, and its address with the port that was picked.
private func listen(at address: SocketAddress) throws(EventLoopError) -> (Int32, SocketAddress) {
  let operation = "answer HTTP on \(address)"
  func failure() -> EventLoopError {
    EventLoopError(operation: operation, reason: String(cString: strerror(errno)))
  }
  guard case .tcp(let host, _) = address, let resolved = try address.resolve().first else {
    throw EventLoopError(operation: operation, reason: "must be HOST:PORT or [IPV6]:PORT")
  }
  let name = resolved.bytes
  let type = SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
  let descriptor = socket(resolved.family, Int32(type), 0)
  guard descriptor >= 0 else { throw failure() }
  var yes: Int32 = 1
  setsockopt(
    descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
  var storage = sockaddr_storage()
  var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
  let isBound = name.withUnsafeBytes { name in
    name.baseAddress.map {
      bind(descriptor, $0.assumingMemoryBound(to: sockaddr.self), socklen_t(name.count)) == 0
    } ?? false
  }
  let isListening =
    isBound && Glibc.listen(descriptor, 16) == 0
    && withUnsafeMutablePointer(to: &storage) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        getsockname(descriptor, $0, &length) == 0
      }
    }
  guard isListening else {
    let error = failure()
    close(descriptor)
    throw error
  }
  // The port lies at the same place in IPv4 and IPv6 addresses.
  let port = withUnsafeBytes(of: storage) { $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self) }
  return (descriptor, .tcp(host: host, port: UInt16(bigEndian: port)))
}
