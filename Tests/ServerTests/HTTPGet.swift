import Foundation
import GranuleServer
import Testing

/// What a server answered over HTTP.
struct HTTPAnswer {
  let status: Int
  let headers: String
  let body: String
}

extension TestServer {
  /// Asks the server's HTTP address, as a scraper does.
  func http(_ path: String, method: String = "GET") throws -> HTTPAnswer {
    let socket = try RawSocket(try #require(server.httpAddress))
    socket.send(
      Array("\(method) \(path) HTTP/1.1\r\nHost: granule\r\nConnection: close\r\n\r\n".utf8))
    let text = String(decoding: try socket.receiveAll(), as: UTF8.self)
    let end = try #require(text.range(of: "\r\n\r\n"))
    let head = text[..<end.lowerBound]
    return HTTPAnswer(
      status: try #require(head.split(separator: " ").dropFirst().first.flatMap { Int($0) }),
      headers: String(head), body: String(text[end.upperBound...]))
  }

  /// The server's metrics: each sample's name with labels, and its value.
  func metrics() throws -> [String: Double] {
    try readExposition(try http("/metrics").body)
  }
}

/// Reads Prometheus's text format and checks what it promises: samples stand behind the HELP and
/// TYPE of their metric, no metric or sample comes twice, and buckets are cumulative.
func readExposition(_ text: String) throws -> [String: Double] {
  #expect(text.hasSuffix("\n"))
  var samples: [String: Double] = [:]
  var (name, kind) = ("", "")
  var seen: Set<String> = []
  var lastBucket: (series: Substring, count: Double)?
  for line in text.split(separator: "\n") {
    let words = line.split(separator: " ", maxSplits: 3)
    if line.hasPrefix("# HELP ") {
      name = String(words[2])
      #expect(seen.insert(name).inserted, "\(name) comes twice")
      #expect(name.wholeMatch(of: /[a-z_][a-z0-9_]*/) != nil)
      kind = ""
      continue
    }
    if line.hasPrefix("# TYPE ") {
      #expect(words[2] == name)
      kind = String(words[3])
      #expect(["counter", "gauge", "histogram"].contains(kind))
      #expect(kind != "counter" || name.hasSuffix("_total"), "\(name)")
      continue
    }
    let space = try #require(line.lastIndex(of: " "))
    let series = line[..<space]
    let value = try #require(Double(line[line.index(after: space)...]))
    #expect(samples.updateValue(value, forKey: String(series)) == nil, "\(series) comes twice")
    let base = series.prefix { $0 != "{" }
    let names =
      kind == "histogram" ? ["_bucket", "_sum", "_count"].map { name + $0 } : [name]
    #expect(names.contains(String(base)), "\(series) stands below \(name)")
    if base.hasSuffix("_bucket"), let bound = series.range(of: "le=\"") {
      let all = series[..<bound.lowerBound]
      if let lastBucket, lastBucket.series == all {
        #expect(value >= lastBucket.count, "\(series)")
      }
      lastBucket = (all, value)
    }
  }
  return samples
}
