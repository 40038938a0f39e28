import GranuleWire

/// What clients ask for, as metrics name it.
enum RequestMethod: String, Sendable, CaseIterable {
  case encode
  case decode
  case listModels = "list_models"
  case status
  case cancel
  case loadModel = "load_model"
  case unloadModel = "unload_model"
  case resizeModel = "resize_model"
  /// A request of a kind that this server does not know, or of none.
  case unknown

  init(_ kind: Request.Kind?) {
    self =
      switch kind {
      case .encode: .encode
      case .decode: .decode
      case .listModels: .listModels
      case .status: .status
      case .cancel: .cancel
      case .loadModel: .loadModel
      case .unloadModel: .unloadModel
      case .resizeModel: .resizeModel
      case nil: .unknown
      }
  }
}

/// Why the server, or the system, ended a connection that its client had not ended in good order.
enum AbnormalClose: String, Sendable, CaseIterable {
  /// The client sent what is no request, or a request's id twice.
  case badFrame = "bad_frame"
  /// Unfinished frames took too much memory.
  case receiveMemory = "receive_memory"
  /// A frame arrived too slowly.
  case slowSender = "slow_sender"
  /// Responses were read too slowly.
  case slowReader = "slow_reader"
  /// No requests for too long.
  case idle
  /// The network failed, or the client broke the connection off.
  case broken
  /// Requests were still in flight when the server had to stop.
  case drainTimeout = "drain_timeout"
}

/// What one stage of a request took.
struct StageMeasure: Sendable {
  var model: String
  var method: RequestMethod
  var tokens: Int
  /// The largest granularity asked for, and this stage's; 0 for decoding.
  var granularityAsked: Int
  var granularity: Int
  var queueSeconds: Double
  var computeSeconds: Double
}

/// Counts of what the server has done; confined to the event loop's thread, copies go elsewhere.
struct ServerMetrics: Sendable {
  /// How requests ended; a nil code is success.
  struct Outcome: Hashable {
    var method: RequestMethod
    var code: ErrorCode?
  }

  /// Counts of one model, whichever version answered.
  struct Model: Sendable {
    var tokens: [RequestMethod: UInt64] = [:]
    var queueSeconds = Histogram(bounds: secondsBounds)
    var computeSeconds = Histogram(bounds: secondsBounds)
    var granularityAsked = Histogram(bounds: granularityBounds)
    var granularityServed = Histogram(bounds: granularityBounds)
  }

  /// 0.1 ms to 10 s.
  static let secondsBounds: [Double] =
    [1e-4, 1e-3, 1e-2, 0.1, 1].flatMap { [$0, 2.5 * $0, 5 * $0] } + [10]
  /// Powers of two.
  static let granularityBounds = (6...17).map { Double(1 << $0) }
  /// Stands for models beyond those that have metrics of their own; no model's name begins so.
  static let otherModels = "_other"

  private(set) var requests: [Outcome: UInt64] = [:]
  private(set) var models: [String: Model] = [:]
  private(set) var abnormalCloses: [AbnormalClose: UInt64] = [:]
  var acceptedConnections: UInt64 = 0
  var refusedConnections: UInt64 = 0
  private let modelsMax: Int

  /// - Parameter modelsMax: models that are counted each by itself.
  init(modelsMax: Int) { self.modelsMax = modelsMax }

  /// A request was answered, for good.
  mutating func record(_ method: RequestMethod, _ code: ErrorCode?) {
    requests[Outcome(method: method, code: code), default: 0] += 1
  }

  mutating func record(_ close: AbnormalClose) { abnormalCloses[close, default: 0] += 1 }

  /// A stage was answered; `isLast`: and with it the request.
  mutating func record(_ stage: StageMeasure, isLast: Bool) {
    let isKnown = models[stage.model] != nil || models.count < modelsMax
    models[isKnown ? stage.model : Self.otherModels, default: Model()].record(stage, isLast: isLast)
  }
}

extension ServerMetrics.Model {
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
