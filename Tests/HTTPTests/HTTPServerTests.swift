import Foundation
import GranuleHTTP
import GranuleTransport
import Testing

/// Sends bytes to an address and gives everything that comes back until the server closes.
private func exchange(_ bytes: String, with address: SocketAddress) throws -> String {
  guard case .tcp(_, let port) = address else { throw POSIXError(.EAFNOSUPPORT) }
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  defer { close(descriptor) }
  var name = sockaddr_in()
  name.sin_family = sa_family_t(AF_INET)
  name.sin_port = port.bigEndian
  name.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
  let code = withUnsafePointer(to: &name) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
  try #require(code == 0)
  // A test that waits for what never comes fails instead of hanging.
  var limit = timeval(tv_sec: 60, tv_usec: 0)
  setsockopt(
    descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  let request = Array(bytes.utf8)
  try #require(send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count)
  var answer: [UInt8] = []
  var part = [UInt8](repeating: 0, count: 65536)
  while true {
    let count = recv(descriptor, &part, part.count, 0)
    try #require(count >= 0, "recv: \(String(cString: strerror(errno)))")
    if count == 0 { return String(decoding: answer, as: UTF8.self) }
    answer += part[..<count]
  }
}

@Suite("HTTP, against a real socket") struct HTTPServerTests {
  private func server(
    idleSeconds: Int = 60, _ answer: @escaping @Sendable (String) -> HTTPResponse?
  ) throws -> HTTPServer {
    try HTTPServer(
      address: .tcp(host: "127.0.0.1", port: 0), connectionsMax: 4, idleSeconds: idleSeconds,
      answer: answer)
  }

  @Test("GET and HEAD are answered with status, type and body; other methods and paths are not")
  func answers() throws {
    let server = try server { path in
      path == "/page" ? HTTPResponse(status: 203, contentType: "text/x-test", body: "ä\n") : nil
    }
    defer { server.stop() }
    let page = try exchange("GET /page HTTP/1.1\r\nHost: h\r\n\r\n", with: server.address)
    #expect(page.hasPrefix("HTTP/1.1 203 "))
    #expect(page.contains("\r\nContent-Type: text/x-test\r\n"))
    #expect(page.contains("\r\nContent-Length: 3\r\n"))
    #expect(page.contains("\r\nConnection: close\r\n"))
    #expect(page.hasSuffix("\r\n\r\nä\n"))
    let head = try exchange("HEAD /page HTTP/1.1\r\nHost: h\r\n\r\n", with: server.address)
    #expect(head.hasPrefix("HTTP/1.1 203 "))
    #expect(head.hasSuffix("\r\n\r\n"))
    let post = try exchange(
      "POST /page HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", with: server.address)
    #expect(post.hasPrefix("HTTP/1.1 405 "))
    #expect(post.contains("\r\nAllow: GET, HEAD\r\n"))
    let missing = try exchange("GET /none HTTP/1.1\r\nHost: h\r\n\r\n", with: server.address)
    #expect(missing.hasPrefix("HTTP/1.1 404 "))
  }

  @Test("what is not HTTP costs its own connection only")
  func garbage() throws {
    // What looks like the start of a request is waited for.
    let server = try server(idleSeconds: 1) { _ in HTTPResponse(body: "ok\n") }
    defer { server.stop() }
    for bytes in ["\u{0}\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
      _ = try exchange(bytes, with: server.address)
    }
    let page = try exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", with: server.address)
    #expect(page.hasPrefix("HTTP/1.1 200 "))
  }

  @Test("an address that is in use, or no TCP address, is refused by name")
  func unusable() throws {
    let server = try server { _ in nil }
    defer { server.stop() }
    for address in [server.address, .unix(path: "/tmp/none")] {
      let error = #expect(throws: EventLoopError.self) {
        _ = try HTTPServer(address: address, connectionsMax: 1, idleSeconds: 1) { _ in nil }
      }
      #expect(error?.operation == "answer HTTP on \(address)")
    }
  }

  @Test("probes and metrics answer 503 once the server has ended")
  func pages() {
    let ended = OperationsPages(snapshot: { nil }, isReady: { nil })
    for path in ["/metrics", "/healthz", "/readyz"] {
      #expect(ended.page(path)?.status == 503, "\(path)")
    }
    #expect(ended.page("/other") == nil)
    let draining = OperationsPages(snapshot: { nil }, isReady: { false })
    #expect(draining.page("/healthz")?.status == 200)
    #expect(draining.page("/readyz")?.status == 503)
  }
}
