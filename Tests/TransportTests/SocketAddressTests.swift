import GranuleTransport
import Testing

@Suite struct SocketAddressTests {
  @Test("addresses are read as they are written")
  func roundTrip() throws {
    for text in ["127.0.0.1:0", "localhost:65535", "[::1]:80", "unix:/run/x.sock", "unix:rel"] {
      #expect(try SocketAddress(text).description == text)
    }
    #expect(try SocketAddress("[::1]:80") == .tcp(host: "::1", port: 80))
  }

  @Test("an address that cannot be meant is refused, saying why")
  func refused() {
    for (text, word) in [
      ("", "HOST:PORT"), ("localhost", "HOST:PORT"), ("localhost:", "port"),
      ("localhost:65536", "port"), ("localhost:-1", "port"), ("localhost:x", "port"),
      (":80", "no host"), ("::1:80", "brackets"), ("unix:", "no path"),
      ("unix:" + String(repeating: "a", count: 108), "107"),
    ] {
      let error = #expect(throws: EventLoopError.self) { try SocketAddress(text) }
      #expect(error?.reason.contains(word) == true, "\(text): \(error?.reason ?? "")")
    }
  }
}
