public import GranuleTransport
public import GranuleWire
import Synchronization

/// A connection to a server, shared by any number of tasks: each request is answered on its own, in
/// whatever order.
///
/// Cancelling a task cancels its request at the server. All functions throw a `ServerError` if
/// the server refused, a `ClientError` if there was no answer, and `CancellationError`.
///
/// Neither cancelling nor a timeout undoes a `loadModel`, `unloadModel` or `resizeModel` that has
/// been sent: nobody waits for its answer any more, but the server carries it out.
public final class Client: Sendable {
  /// The server's address.
  public let address: SocketAddress
  private let thread: LoopThread
  private let connection: LoopBound<ClientConnection>
  private let lastID = Atomic<UInt64>(0)

  private init(address: SocketAddress, thread: LoopThread, connection: LoopBound<ClientConnection>)
  {
    self.address = address
    self.thread = thread
    self.connection = connection
  }

  deinit { thread.stop() }

  /// Connects to a server.
  public static func connect(to address: SocketAddress, options: ClientOptions = ClientOptions())
    async throws -> Client
  {
    let thread = try LoopThread(name: "client")
    do {
      let connection = try await withCheckedThrowingContinuation {
        (continuation: CheckedContinuation<LoopBound<ClientConnection>, any Error>) in
        thread.remote.post { loop in
          ClientConnection.open(loop: loop, address: address, options: options) {
            continuation.resume(with: $0)
          }
        }
      }
      return Client(address: address, thread: thread, connection: connection)
    } catch {
      thread.stop()
      throw error
    }
  }

  /// Ends the connection; requests in flight fail with `ClientError.closed`.
  public func close() {
    onLoop { $0.close() }
  }

  // MARK: Requests

  /// Encodes activations at one granularity, or gives the last of several stages, with all its codes
  /// even if the request asked for changes only.
  public func encode(_ request: EncodeRequest, timeout: Duration? = nil) async throws
    -> EncodeResponse
  {
    var last: EncodeResponse?
    for try await var stage in encodeStages(request, timeout: timeout) {
      if let before = last?.codes { try stage.completeCodes(with: before) }
      last = stage
    }
    // A stream ends without a value only if its task was cancelled.
    guard let last else { throw CancellationError() }
    return last
  }

  /// Encodes activations and gives each stage as it arrives; `completeCodes(with:)` turns stages that
  /// carry only changes into whole codes.
  ///
  /// A consumer that stops early cancels the rest at the server. The stream keeps the connection
  /// until it ends, whether or not anybody else holds this client.
  public func encodeStages(_ request: EncodeRequest, timeout: Duration? = nil)
    -> AsyncThrowingStream<EncodeResponse, any Error>
  {
    responses(to: .encode(request), timeout: timeout) {
      if case .encode(let response) = $0 { response } else { nil }
    }
  }

  /// Turns sparse codes back into activations.
  public func decode(_ request: DecodeRequest, timeout: Duration? = nil) async throws
    -> DecodeResponse
  {
    try await response(to: .decode(request), timeout: timeout) {
      if case .decode(let response) = $0 { response } else { nil }
    }
  }

  /// Every model of the repository, and its versions.
  public func listModels(timeout: Duration? = nil) async throws -> [ModelStatus] {
    try await response(to: .listModels, timeout: timeout) {
      if case .listModels(let models) = $0 { models } else { nil }
    }
  }

  /// The server's load and counts.
  public func status(timeout: Duration? = nil) async throws -> ServerStatus {
    try await response(to: .status, timeout: timeout) {
      if case .status(let status) = $0 { status } else { nil }
    }
  }

  /// Serves `version` of a model and keeps to it; 0 follows the newest. On an admin address only.
  ///
  /// - Parameter beside: keep `version` resident for requests that name it; what serves stays.
  public func loadModel(
    _ name: String, version: UInt64 = 0, beside: Bool = false, timeout: Duration? = nil
  ) async throws -> ModelStatus {
    try await administer(.loadModel(name: name, version: version, beside: beside), timeout)
  }

  /// Stops serving a model until it is loaded again. On an admin address only.
  ///
  /// - Parameter version: 0 unloads the model; another number unloads only this version, which was
  ///   loaded beside the one that serves.
  public func unloadModel(_ name: String, version: UInt64 = 0, timeout: Duration? = nil)
    async throws -> ModelStatus
  {
    try await administer(.unloadModel(name: name, version: version), timeout)
  }

  /// Keeps the first `granularity` latents of a model in memory; 0 keeps all. On an admin address only.
  public func resizeModel(_ name: String, granularity: UInt32, timeout: Duration? = nil)
    async throws -> ModelStatus
  {
    try await administer(.resizeModel(name: name, granularity: granularity), timeout)
  }

  private func administer(_ call: Call, _ timeout: Duration?) async throws -> ModelStatus {
    try await response(to: call, timeout: timeout) {
      if case .model(let model) = $0 { model } else { nil }
    }
  }

  // MARK: Sending

  private func response<Value: Sendable>(
    to call: Call, timeout: Duration?,
    reading read: @escaping @Sendable (Response.Body) -> Value?
  ) async throws -> Value {
    try await last(of: responses(to: call, timeout: timeout, reading: read))
  }

  private func last<Value: Sendable>(of stages: AsyncThrowingStream<Value, any Error>) async throws
    -> Value
  {
    var last: Value?
    for try await stage in stages { last = stage }
    guard let last else { throw CancellationError() }
    return last
  }

  private func responses<Value: Sendable>(
    to call: Call, timeout: Duration?,
    reading read: @escaping @Sendable (Response.Body) -> Value?
  ) -> AsyncThrowingStream<Value, any Error> {
    let id = lastID.add(1, ordering: .relaxed).newValue
    let request = Request(
      id: id, timeoutMilliseconds: timeout.map(Self.milliseconds) ?? 0, call: call)
    let frame = request.packed()
    let address = address
    return AsyncThrowingStream { continuation in
      let waiting = WaitingRequest(
        receive: { body in
          guard let value = read(body) else {
            continuation.finish(
              throwing: ClientError.protocolViolation(
                address: address, reason: "it answered request \(id) with another kind of response")
            )
            return
          }
          continuation.yield(value)
        },
        finish: { continuation.finish(throwing: $0) })
      // The stream lets go of this, and so of the client, as soon as it ends.
      continuation.onTermination = { reason in
        if case .cancelled = reason { self.cancel(id) }
      }
      onLoop { $0.send(frame, id: id, timeout: timeout, waiting) }
    }
  }

  private func cancel(_ id: UInt64) {
    let cancelID = lastID.add(1, ordering: .relaxed).newValue
    onLoop { $0.cancel(id, with: cancelID) }
  }

  private func onLoop(_ job: @escaping @Sendable (ClientConnection) -> Void) {
    let connection = connection
    // The loop outlives this object: it is stopped by the deinitialiser only.
    thread.remote.post { loop in job(connection.get(on: loop)) }
  }

  /// A duration for the wire: at least 1, because 0 means no limit.
  private static func milliseconds(_ duration: Duration) -> UInt32 {
    UInt32(clamping: max(Int64((duration / .milliseconds(1)).rounded(.up)), 1))
  }
}
