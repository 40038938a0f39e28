/// What is answered over HTTP: metrics and probes.
///
/// Each answer asks the server's event loop, so that a probe hangs if the server does.
package struct OperationsPages: Sendable {
  /// Asks the event loop for the metrics; nil if it has ended.
  private let snapshot: @Sendable () -> MetricsSnapshot?
  /// Asks the event loop whether requests are taken; nil if it has ended.
  private let isReady: @Sendable () -> Bool?

  /// - Parameters:
  ///   - snapshot: gives the metrics; nil once the server has ended.
  ///   - isReady: tells whether requests are taken; nil once the server has ended.
  package init(
    snapshot: @escaping @Sendable () -> MetricsSnapshot?,
    isReady: @escaping @Sendable () -> Bool?
  ) {
    self.snapshot = snapshot
    self.isReady = isReady
  }

  /// The page at a path; nil if there is none.
  package func page(_ path: String) -> HTTPResponse? {
    switch path {
    case "/metrics":
      guard let snapshot = snapshot() else { return Self.stopped }
      return HTTPResponse(contentType: PrometheusText.contentType, body: snapshot.text())
    case "/healthz": return isReady() == nil ? Self.stopped : HTTPResponse(body: "ok\n")
    case "/readyz": return isReady() == true ? HTTPResponse(body: "ready\n") : Self.stopped
    default: return nil
    }
  }

  private static let stopped = HTTPResponse(status: 503, body: "stopping\n")
}
