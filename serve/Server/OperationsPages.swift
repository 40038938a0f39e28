import GranuleHTTP
import GranuleThreads
import GranuleTransport

/// What is answered over HTTP: metrics and probes.
///
/// Each answer is made on the event loop's thread, so that a probe hangs where the server does.
struct OperationsPages: Sendable {
  let remote: LoopRemote
  let core: LoopBound<ServerCore>

  /// The page at a path; nil where there is none.
  func page(_ path: String) -> HTTPResponse? {
    switch path {
    case "/metrics":
      guard let snapshot = ask({ $0.snapshot() }) else { return Self.stopped }
      return HTTPResponse(contentType: PrometheusText.contentType, body: snapshot.text())
    case "/healthz": return ask { _ in true } == true ? HTTPResponse(body: "ok\n") : Self.stopped
    case "/readyz":
      guard ask({ $0.isReady }) == true else { return Self.stopped }
      return HTTPResponse(body: "ready\n")
    default: return nil
    }
  }

  private static let stopped = HTTPResponse(status: 503, body: "stopping\n")

  /// Nil where the event loop has ended. What was posted before that is always run.
  private func ask<R: Sendable>(_ question: @escaping @Sendable (ServerCore) -> R) -> R? {
    let answer = Handover<R>()
    let core = core
    guard remote.post({ loop in answer.give(question(core.get(on: loop))) }) else { return nil }
    return answer.take()
  }
}
