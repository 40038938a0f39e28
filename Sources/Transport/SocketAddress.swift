import CLibUV
import Glibc

/// Where a server listens: a TCP port or a Unix socket.
public enum SocketAddress: Sendable, Hashable, CustomStringConvertible {
  /// A host's name or number, and a port; listening on port 0 picks a free one.
  case tcp(host: String, port: UInt16)
  /// A socket in the file system.
  case unix(path: String)

  /// The longest path of a Unix socket, in bytes: what `sockaddr_un` has room for.
  public static let unixPathBytesMax = 107

  /// Reads `HOST:PORT`, `[::1]:PORT` or `unix:PATH`.
  ///
  /// - Throws: `EventLoopError` that says what is missing or too long.
  public init(_ text: String) throws(EventLoopError) {
    func fail(_ reason: String) -> EventLoopError {
      EventLoopError(operation: "address \"\(text)\"", reason: reason)
    }
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(5))
      guard !path.isEmpty, !path.utf8.contains(0) else { throw fail("no path after unix:") }
      guard path.utf8.count <= Self.unixPathBytesMax else {
        throw fail(
          "the path has \(path.utf8.count) bytes; a Unix socket's may have \(Self.unixPathBytesMax): use a shorter one"
        )
      }
      self = .unix(path: path)
      return
    }
    guard let colon = text.lastIndex(of: ":") else {
      throw fail("must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    }
    var host = String(text[..<colon])
    let digits = text[text.index(after: colon)...]
    guard digits.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
      let port = UInt16(digits)
    else { throw fail("the port must be a number from 0 to 65535") }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = String(host.dropFirst().dropLast())
    } else if host.contains(":") {
      throw fail("write an IPv6 address in brackets: [\(host)]:\(port)")
    }
    guard !host.isEmpty, !host.utf8.contains(0) else {
      throw fail("no host before the port; 127.0.0.1 is this machine, 0.0.0.0 every interface")
    }
    self = .tcp(host: host, port: port)
  }

  /// The address as `init(_:)` reads it.
  public var description: String {
    switch self {
    case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }

  /// The addresses that a TCP host stands for, in the order to try them. Asking for a name may
  /// block.
  ///
  /// - Throws: `EventLoopError` if the host is not known.
  public func resolve() throws(EventLoopError) -> [ResolvedAddress] {
    guard case .tcp(let host, let port) = self else { return [ResolvedAddress(origin: self)] }
    var hints = addrinfo()
    hints.ai_family = AF_UNSPEC
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_NUMERICSERV
    var list: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(host, String(port), &hints, &list)
    guard code == 0 else {
      throw EventLoopError(operation: "find \(self)", reason: String(cString: gai_strerror(code)))
    }
    defer { freeaddrinfo(list) }
    var found: [ResolvedAddress] = []
    var next = list
    while let entry = next?.pointee {
      if let address = entry.ai_addr, Int(entry.ai_addrlen) <= MemoryLayout<sockaddr_storage>.size {
        var resolved = ResolvedAddress(origin: self)
        withUnsafeMutableBytes(of: &resolved.storage) {
          $0.copyMemory(
            from: UnsafeRawBufferPointer(start: address, count: Int(entry.ai_addrlen)))
        }
        found.append(resolved)
      }
      next = entry.ai_next
    }
    return found
  }
}

/// An address that the system can connect to or listen on.
public struct ResolvedAddress: Sendable {
  /// What it was resolved from.
  public let origin: SocketAddress
  /// The address, if `origin` is TCP.
  var storage = sockaddr_storage()

  init(origin: SocketAddress) { self.origin = origin }

  /// `AF_INET` or `AF_INET6`.
  package var family: Int32 { Int32(storage.ss_family) }
  /// The address as the system's calls take it: a `sockaddr_in` or `sockaddr_in6`.
  package var bytes: [UInt8] {
    let size =
      family == AF_INET
      ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
    return withUnsafeBytes(of: storage) { Array($0.prefix(size)) }
  }

  func withPointer<R>(_ body: (UnsafePointer<sockaddr>) -> R) -> R {
    withUnsafeBytes(of: storage) { bytes in
      guard let base = bytes.baseAddress else { preconditionFailure("a structure has an address") }
      return body(base.assumingMemoryBound(to: sockaddr.self))
    }
  }
}
