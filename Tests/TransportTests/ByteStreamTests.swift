import Foundation
import GranuleTransport
import TestSupport
import Testing

/// Collects what a stream receives, and answers as it is told.
private final class Recorder: ByteStreamHandler {
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
  var received: [UInt8] = []
  var onReceive: (Recorder, ByteStream) -> Void = { _, _ in }
  var onEnd: (Recorder, ByteStream) -> Void = { _, _ in }
  var onWrote: (ByteStream) -> Void = { _ in }
  var onClose: (Recorder) -> Void = { _ in }

  deinit { buffer.deallocate() }

  func space(for stream: ByteStream) -> UnsafeMutableRawBufferPointer { buffer }
  func stream(_ stream: ByteStream, received count: Int) {
    received += buffer.prefix(count)
    onReceive(self, stream)
  }
  func streamEnded(_ stream: ByteStream) { onEnd(self, stream) }
  func streamWrote(_ stream: ByteStream) { onWrote(stream) }
  func streamClosed(_ stream: ByteStream, error: EventLoopError?) { onClose(self) }
}

/// Bytes that keep themselves alive while they are written.
private final class Bytes {
  let buffer: UnsafeMutableRawBufferPointer
  init(_ bytes: [UInt8]) {
    buffer = .allocate(byteCount: bytes.count, alignment: 16)
    buffer.copyBytes(from: bytes)
  }
  deinit { buffer.deallocate() }
}

extension ByteStream {
  fileprivate func write(_ bytes: [UInt8]) {
    let owner = Bytes(bytes)
    write(UnsafeRawBufferPointer(owner.buffer), owner: owner)
  }
}

/// An address for a test's own Unix socket.
private func temporarySocket() -> SocketAddress {
  .unix(
    path: FileManager.default.temporaryDirectory
      .appending(path: "granule-\(UUID().uuidString.prefix(8)).sock").path)
}

@Suite struct ByteStreamTests {
  @Test(
    "bytes come back from an echo, over TCP and Unix sockets, more than the system buffers",
    arguments: [SocketAddress.tcp(host: "127.0.0.1", port: 0), temporarySocket()])
  func echo(address: SocketAddress) throws {
    let loop = try EventLoop()
    let sent = (0..<8_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
    var result: [UInt8] = []
    let listener = try Listener(loop: loop, address: address) { stream in
      let recorder = Recorder()
      recorder.onReceive = { recorder, stream in
        stream.write(recorder.received)
        recorder.received = []
      }
      recorder.onEnd = { _, stream in stream.finish(discardBytesMax: 0, within: .seconds(30)) }
      stream.setHandler(recorder)
      stream.resumeReading()
    }
    ByteStream.connect(loop: loop, to: try listener.address.resolve()) { connected in
      guard let stream = try? connected.get() else { return loop.shutdown() }
      let recorder = Recorder()
      recorder.onReceive = { recorder, stream in
        if recorder.received.count == sent.count { stream.close() }
      }
      recorder.onClose = { recorder in
        result = recorder.received
        loop.shutdown()
      }
      stream.setHandler(recorder)
      stream.resumeReading()
      stream.write(sent)
    }
    loop.run()
    #expect(result == sent)
  }

  @Test("the last bytes arrive though the peer keeps sending what nobody reads")
  func finishKeepsLastBytes() throws {
    let loop = try EventLoop()
    let farewell = Array("no more".utf8)
    var result: [UInt8] = []
    let listener = try Listener(loop: loop, address: .tcp(host: "127.0.0.1", port: 0)) { stream in
      let recorder = Recorder()
      recorder.onReceive = { _, stream in
        stream.write(farewell)
        stream.finish(discardBytesMax: 64 << 20, within: .seconds(30))
      }
      stream.setHandler(recorder)
      stream.resumeReading()
    }
    ByteStream.connect(loop: loop, to: try listener.address.resolve()) { connected in
      guard let stream = try? connected.get() else { return loop.shutdown() }
      let recorder = Recorder()
      recorder.onEnd = { _, stream in stream.close() }
      recorder.onClose = { recorder in
        result = recorder.received
        loop.shutdown()
      }
      stream.setHandler(recorder)
      stream.resumeReading()
      stream.write([UInt8](repeating: 1, count: 4_000_000))
    }
    loop.run()
    #expect(result == farewell)
  }

  @Test("a peer that never stops sending is cut off after the bytes allowed")
  func finishIsBounded() throws {
    let loop = try EventLoop()
    var serverClosed = false
    var sent = 0
    let listener = try Listener(loop: loop, address: .tcp(host: "127.0.0.1", port: 0)) { stream in
      let recorder = Recorder()
      recorder.onReceive = { _, stream in
        stream.finish(discardBytesMax: 100_000, within: .seconds(600))
      }
      recorder.onClose = { _ in serverClosed = true }
      stream.setHandler(recorder)
      stream.resumeReading()
    }
    ByteStream.connect(loop: loop, to: try listener.address.resolve()) { connected in
      guard let stream = try? connected.get() else { return loop.shutdown() }
      let recorder = Recorder()
      // More than the system's buffers hold, again and again: only the server can end this early.
      func send() {
        guard sent < 256 << 20 else { return loop.shutdown() }
        sent += 16 << 20
        stream.write([UInt8](repeating: 1, count: 16 << 20))
      }
      recorder.onWrote = { stream in if stream.queuedBytes == 0 { send() } }
      recorder.onClose = { _ in loop.shutdown() }
      stream.setHandler(recorder)
      send()
    }
    loop.run()
    #expect(serverClosed)
    #expect(sent < 256 << 20, "the peer was cut off, and did not end by itself")
  }

  @Test("a peer that neither sends nor ends is cut off after the time allowed, and not before")
  func finishEndsInTime() throws {
    let loop = try EventLoop()
    let limit = Duration.milliseconds(50)
    var (finished, closed): (ContinuousClock.Instant?, ContinuousClock.Instant?)
    // Ends what would never end.
    var isAlarmed = false
    let alarm = LoopTimer(loop: loop)
    alarm.start(after: .seconds(60)) {
      isAlarmed = true
      loop.shutdown()
    }
    let listener = try Listener(loop: loop, address: .tcp(host: "127.0.0.1", port: 0)) { stream in
      let recorder = Recorder()
      recorder.onReceive = { _, stream in
        finished = .now
        stream.finish(discardBytesMax: 100_000, within: limit)
      }
      recorder.onClose = { _ in
        closed = .now
        loop.shutdown()
      }
      stream.setHandler(recorder)
      stream.resumeReading()
    }
    ByteStream.connect(loop: loop, to: try listener.address.resolve()) { connected in
      guard let stream = try? connected.get() else { return loop.shutdown() }
      stream.setHandler(Recorder())
      stream.write([1])
    }
    loop.run()
    let waited = try #require(finished).duration(to: try #require(closed))
    // The loop's clock counts whole milliseconds.
    #expect(waited >= limit - .milliseconds(2) && !isAlarmed)
    withExtendedLifetime(alarm) {}
  }

  @Test("what the system does not take waits, and is counted")
  func queuedBytes() throws {
    let loop = try EventLoop()
    var queued = 0
    let listener = try Listener(loop: loop, address: .tcp(host: "127.0.0.1", port: 0)) { _ in }
    ByteStream.connect(loop: loop, to: try listener.address.resolve()) { connected in
      guard let stream = try? connected.get() else { return loop.shutdown() }
      // Nobody reads at the other end.
      for _ in 0..<32 { stream.write([UInt8](repeating: 0, count: 1 << 20)) }
      queued = stream.queuedBytes
      loop.shutdown()
    }
    loop.run()
    #expect(queued > 1 << 20)
    #expect(queued <= 32 << 20)
  }

  @Test("connecting where nobody listens fails with the address")
  func refused() throws {
    let loop = try EventLoop()
    let listener = try Listener(loop: loop, address: .tcp(host: "127.0.0.1", port: 0)) { _ in }
    let address = listener.address
    listener.close()
    var failure: EventLoopError?
    ByteStream.connect(loop: loop, to: try address.resolve()) { result in
      if case .failure(let error) = result { failure = error }
      loop.shutdown()
    }
    loop.run()
    #expect(failure?.operation == "connect to \(address)")
  }

  @Test("a socket file that nobody answers at is replaced; one in use, or another file, is not")
  func staleSocket() throws {
    let address = temporarySocket()
    guard case .unix(let path) = address else { return }
    defer { try? FileManager.default.removeItem(atPath: path) }

    close(try UnixSocket.bound(to: path, type: SOCK_STREAM))

    let loop = try EventLoop()
    let listener = try Listener(loop: loop, address: address, ownerOnly: true) { _ in }
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    let inUse = #expect(throws: EventLoopError.self) {
      _ = try Listener(loop: loop, address: address) { _ in }
    }
    #expect(inUse?.reason == "another process listens there")
    listener.close()
    loop.remote.post { $0.shutdown() }
    loop.run()

    try Data("precious".utf8).write(to: URL(filePath: path))
    let other = try EventLoop()
    let noSocket = #expect(throws: EventLoopError.self) {
      _ = try Listener(loop: other, address: address) { _ in }
    }
    #expect(noSocket?.reason == "the file exists and is not a socket")
    #expect(try String(contentsOf: URL(filePath: path), encoding: .utf8) == "precious")
    other.shutdown()
    other.run()
  }

  @Test("a socket file that cannot be tried is left alone, and the system's reason is told")
  func untriedSocket() throws {
    let address = temporarySocket()
    guard case .unix(let path) = address else { return }
    defer { try? FileManager.default.removeItem(atPath: path) }
    // Somebody's, but not for streams.
    let datagrams = try UnixSocket.bound(to: path, type: SOCK_DGRAM)
    defer { close(datagrams) }
    let loop = try EventLoop()
    let error = #expect(throws: EventLoopError.self) {
      _ = try Listener(loop: loop, address: address) { _ in }
    }
    let reason = String(cString: strerror(EPROTOTYPE))
    #expect(error?.reason.contains("cannot be tried: \(reason); remove it") == true)
    #expect(FileManager.default.fileExists(atPath: path))
    loop.shutdown()
    loop.run()
  }
}
