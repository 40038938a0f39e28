import Glibc
import GranuleCalls
package import GranuleEngine

/// Everything that metrics tell, at one moment.
package struct MetricsSnapshot: Sendable {
  private let engine: EngineSnapshot
  private let connections: ConnectionMetrics

  /// - Parameters:
  ///   - engine: load, counts and models.
  ///   - connections: counts of connections.
  package init(engine: EngineSnapshot, connections: ConnectionMetrics) {
    self.engine = engine
    self.connections = connections
  }

  private var status: ServerStatus { engine.status }

  /// In Prometheus's text format.
  package func text() -> String {
    var text = PrometheusText()
    writeServer(&text)
    writeRequests(&text)
    writeConnections(&text)
    writeModels(&text)
    return text.text
  }

  private func writeServer(_ text: inout PrometheusText) {
    text.metric("granule_build_info", .gauge, "Always 1; the label is the server's version.")
    text.sample("granule_build_info", ["version": status.serverVersion], 1)
    text.single(
      "granule_ready", .gauge, "1 while requests are taken, 0 while the server stops.",
      status.ready ? 1 : 0)
    text.single(
      "granule_uptime_seconds", .gauge, "Seconds since the server started.", status.uptimeSeconds)
    text.single(
      "process_resident_memory_bytes", .gauge, "Resident memory of the process.",
      Double(residentMemoryBytes()))
    text.single(
      "granule_memory_trims_total", .counter,
      "Times that unused memory was given back to the system.",
      Double(engine.loads.trims))
    text.single(
      "granule_log_lines_suppressed_total", .counter,
      "Log lines not written because too many of the same kind came.",
      Double(engine.suppressedLogLines))
  }

  private func writeRequests(_ text: inout PrometheusText) {
    text.metric(
      "granule_requests_total", .counter, "Requests answered, by method and outcome code.")
    for method in CallMethod.allCases {
      for code in [nil] + ErrorCode.allCases.map(Optional.some) {
        guard let count = engine.metrics.requests[.init(method: method, code: code)] else {
          continue
        }
        text.sample(
          "granule_requests_total",
          ["method": method.rawValue, "code": code?.description ?? "OK"], Double(count))
      }
    }
    func counter(_ name: String, _ help: String, _ value: UInt64) {
      text.single(name, .counter, help, Double(value))
    }
    counter(
      "granule_requests_computed_total", "Requests that workers began to compute.",
      status.computedRequests)
    counter("granule_batches_total", "Batches that workers began to compute.", status.batches)
    counter(
      "granule_requests_shed_total",
      "Requests answered at a smaller granularity, or in fewer stages, than asked for.",
      status.shedRequests)
    counter(
      "granule_requests_refused_total", "Requests refused because there was no room.",
      status.refusedRequests)
    counter(
      "granule_requests_expired_total", "Requests whose timeout passed before a worker took them.",
      status.expiredRequests)
    counter(
      "granule_requests_cancelled_total",
      "Requests cancelled, or whose client had gone, before they were answered.",
      status.cancelledRequests)
    func gauge(_ name: String, _ help: String, _ value: Double) {
      text.single(name, .gauge, help, value)
    }
    gauge(
      "granule_queued_requests", "Requests waiting for a worker.", Double(status.queuedRequests))
    gauge("granule_queued_tokens", "Tokens waiting for a worker.", Double(status.queuedTokens))
    gauge(
      "granule_expected_wait_seconds", "Expected wait of a request that arrives now.",
      engine.expectedWait / .seconds(1))
    gauge(
      "granule_shed_level", "By how many granularities requests that allow it are cut.",
      Double(status.pressure))
    gauge(
      "granule_admitted_bytes", "Memory reserved for requests in flight and their responses.",
      Double(engine.bytes.admitted))
  }

  private func writeConnections(_ text: inout PrometheusText) {
    text.single("granule_connections", .gauge, "Open connections.", Double(status.connections))
    text.single(
      "granule_connections_max", .gauge, "Connections that may be open at once.",
      Double(connections.connectionsMax))
    text.single(
      "granule_connections_accepted_total", .counter, "Connections accepted.",
      Double(connections.accepted))
    text.single(
      "granule_connections_refused_total", .counter,
      "Connections refused because the limit was reached.",
      Double(connections.refused))
    text.metric(
      "granule_connections_aborted_total", .counter,
      "Connections that ended without their client's wish, by reason.")
    for reason in AbnormalClose.allCases {
      text.sample(
        "granule_connections_aborted_total", ["reason": reason.rawValue],
        Double(connections.abnormalCloses[reason] ?? 0))
    }
    text.single(
      "granule_write_queue_bytes", .gauge, "Bytes waiting to be written to clients.",
      Double(engine.bytes.write))
    text.single(
      "granule_receive_buffer_bytes", .gauge, "Memory for frames that have not arrived in full.",
      Double(engine.bytes.receive))
  }

  private func writeModels(_ text: inout PrometheusText) {
    text.single(
      "granule_model_swaps_total", .counter, "Times that another version or size began to serve.",
      Double(engine.loads.swaps))
    text.single(
      "granule_model_load_failures_total", .counter, "Attempts to load a version that failed.",
      Double(engine.loads.failures))
    let known = engine.models.prefix(engine.modelsMax)
    text.metric(
      "granule_model_serving_version", .gauge, "The version that serves; 0 if none does.")
    for model in known {
      text.sample(
        "granule_model_serving_version", ["model": model.name], Double(model.servingVersion))
    }
    text.metric(
      "granule_model_pinned", .gauge, "1 if the model keeps to its version, whatever is published.")
    for model in known {
      text.sample("granule_model_pinned", ["model": model.name], model.pinned ? 1 : 0)
    }
    text.metric(
      "granule_model_failed_versions", .gauge, "Versions that cannot be loaded at present.")
    for model in known {
      text.sample(
        "granule_model_failed_versions", ["model": model.name],
        Double(model.versions.count { $0.state == .failed }))
    }
    let resident = known.flatMap { model in
      model.versions.filter { $0.residentBytes > 0 }.map { (model.name, $0) }
    }
    text.metric("granule_model_resident_bytes", .gauge, "Memory of the version's weights.")
    for (name, version) in resident {
      text.sample(
        "granule_model_resident_bytes", ["model": name, "version": "\(version.version)"],
        Double(version.residentBytes))
    }
    text.metric("granule_model_resident_latents", .gauge, "The largest granularity in memory.")
    for (name, version) in resident {
      text.sample(
        "granule_model_resident_latents", ["model": name, "version": "\(version.version)"],
        Double(version.residentLatents))
    }
    writeComputation(&text)
  }

  private func writeComputation(_ text: inout PrometheusText) {
    let counted = engine.metrics.models.sorted { $0.key < $1.key }
    text.metric("granule_tokens_total", .counter, "Tokens of requests that were computed in full.")
    for (name, model) in counted {
      for (method, tokens) in model.tokens.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
        text.sample(
          "granule_tokens_total", ["model": name, "method": method.rawValue], Double(tokens))
      }
    }
    func histogram(
      _ name: String, _ help: String, _ path: KeyPath<EngineMetrics.Model, Histogram>
    ) {
      text.metric(name, .histogram, help)
      for (model, counts) in counted { text.samples(name, ["model": model], counts[keyPath: path]) }
    }
    histogram(
      "granule_queue_seconds", "Time that stages of requests waited for a worker.", \.queueSeconds)
    histogram(
      "granule_compute_seconds", "Time from a stage's first piece to its answer.", \.computeSeconds)
    histogram(
      "granule_granularity_asked", "The largest granularity that encode requests asked for.",
      \.granularityAsked)
    histogram(
      "granule_granularity_served", "The last granularity that encode requests were answered at.",
      \.granularityServed)
  }
}

/// Resident memory as the kernel counts it; 0 if it does not tell.
private func residentMemoryBytes() -> Int {
  guard let file = fopen("/proc/self/statm", "r") else { return 0 }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 256)
  guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
  let fields = String(decoding: line.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    .split(separator: " ")
  return (fields.count > 1 ? Int(fields[1]) ?? 0 : 0) * Int(sysconf(Int32(_SC_PAGESIZE)))
}
