package import GranuleCalls

/// What one stage of a call took.
struct StageMeasure: Sendable {
  var model: String
  var method: CallMethod
  var tokens: Int
  /// The largest granularity asked for, and this stage's; 0 for decoding.
  var granularityAsked: Int
  var granularity: Int
  var queueSeconds: Double
  var computeSeconds: Double
}

/// Counts of what the engine has done.
package struct EngineMetrics: Sendable {
  /// How a request ended; a nil code is success.
  package struct Outcome: Hashable, Sendable {
    package var method: CallMethod
    package var code: ErrorCode?

    /// An outcome.
    package init(method: CallMethod, code: ErrorCode?) {
      self.method = method
      self.code = code
    }
  }

  /// Counts of one model, whichever version answered.
  package struct Model: Sendable {
    package var tokens: [CallMethod: UInt64] = [:]
    package var queueSeconds = Histogram(bounds: secondsBounds)
    package var computeSeconds = Histogram(bounds: secondsBounds)
    package var granularityAsked = Histogram(bounds: granularityBounds)
    package var granularityServed = Histogram(bounds: granularityBounds)
  }

  /// 0.1 ms to 10 s.
  static let secondsBounds: [Double] =
    [1e-4, 1e-3, 1e-2, 0.1, 1].flatMap { [$0, 2.5 * $0, 5 * $0] } + [10]
  /// Powers of two.
  static let granularityBounds = (6...17).map { Double(1 << $0) }
  /// The label of models without metrics of their own; no model's name begins with an underscore.
  static let otherModels = "_other"

  package private(set) var requests: [Outcome: UInt64] = [:]
  package private(set) var models: [String: Model] = [:]
  /// Calls for which there was no room.
  package internal(set) var refused: UInt64 = 0
  /// Calls that were cancelled, or whose caller had gone, before they were answered.
  package internal(set) var cancelled: UInt64 = 0
  private let modelsMax: Int

  /// - Parameter modelsMax: models that have counts of their own.
  init(modelsMax: Int) { self.modelsMax = modelsMax }

  /// A request has had its last answer.
  mutating func record(_ method: CallMethod, _ code: ErrorCode?) {
    requests[Outcome(method: method, code: code), default: 0] += 1
  }

  /// A stage was answered; `isLast`: and with it the call.
  mutating func record(_ stage: StageMeasure, isLast: Bool) {
    let isKnown = models[stage.model] != nil || models.count < modelsMax
    models[isKnown ? stage.model : Self.otherModels, default: Model()].record(stage, isLast: isLast)
  }
}

extension EngineMetrics.Model {
  fileprivate mutating func record(_ stage: StageMeasure, isLast: Bool) {
    queueSeconds.record(stage.queueSeconds)
    computeSeconds.record(stage.computeSeconds)
    guard isLast else { return }
    tokens[stage.method, default: 0] += UInt64(stage.tokens)
    guard stage.method == .encode else { return }
    granularityAsked.record(Double(stage.granularityAsked))
    granularityServed.record(Double(stage.granularity))
  }
}
