import Glibc
import GranuleDictionary
import GranuleEncoder
import GranuleEngine
import GranuleRepository
import GranuleTensors
import GranuleThreads
import Logging
import TestSupport
import Testing

private let dictionary = SparseAutoencoder.random(
  dModel: 24, latents: 160, rule: .topk(k: 12), seed: 1)

/// An engine in this process, with a published dictionary `m`; nothing listens.
private final class EmbeddedEngine {
  let folder: TemporaryFolder
  let repository: ModelRepository
  let engine: Engine

  init(configure: (inout EngineOptions) -> Void = { _ in }) throws {
    folder = try TemporaryFolder()
    repository = ModelRepository(path: folder.path + "/models")
    mkdir(repository.path, 0o755)
    let files = folder.path + "/dictionary"
    mkdir(files, 0o755)
    try dictionary.write(to: files)
    _ = try repository.publish(folder: files, name: "m")
    var options = EngineOptions(repository: repository.path)
    options.workers = 2
    options.logger.logLevel = .critical
    options.limits.shedAbove = .seconds(3600)
    options.limits.queueWaitMax = .seconds(3600)
    configure(&options)
    engine = try Engine(options)
  }

  deinit { engine.stop() }

  func account(_ id: UInt64 = 1, mayAdminister: Bool = false) -> Ledger.Account {
    engine.ledger.open(Principal(id: id, mayAdminister: mayAdminister))
  }
}

/// Collects the replies to one call.
private final class Replies: Sendable {
  private let state = Monitor<(replies: [Reply], error: ServerError?, isDone: Bool)>(
    ([], nil, false))

  var sink: ReplyHandler {
    ReplyHandler { [state] reply, isLast in
      state.change { state in
        switch reply {
        case .success(let reply): state.replies.append(reply)
        case .failure(let error): state.error = error
        }
        state.isDone = isLast
      }
    }
  }

  /// Waits for the last reply.
  func all() throws -> [Reply] {
    let (replies, error) = state.wait { $0.isDone ? ($0.replies, $0.error) : nil }
    if let error { throw error }
    return replies
  }

  func stages() throws -> [EncodedStage] {
    try all().map { reply in
      guard case .encoded(let stage) = reply else {
        throw ServerError(.internal, "another kind of reply")
      }
      return stage
    }
  }
}

private func values(tokens: Int, seed: UInt64) -> [Float] {
  var generator = SeededGenerator(seed: seed)
  return generator.normals(tokens * 24)
}

private func request(_ values: [Float], granularities: [UInt32] = []) -> EncodeRequest {
  EncodeRequest(
    model: "m",
    activations: PackedTensor(
      type: .float32, shape: [UInt32(values.count / 24), 24], data: SharedBytes(copying: values)),
    granularities: granularities)
}

@Suite("An engine in the caller's process") struct EngineTests {
  @Test("answers an encode call with every stage's codes, without a socket or packing")
  func encode() throws {
    let embedded = try EmbeddedEngine()
    let account = embedded.account()
    for tokens in [0, 1, 70, 700] {
      let values = values(tokens: tokens, seed: UInt64(tokens))
      var request = request(values, granularities: [1, 33, 160])
      request.returnReconstruction = true
      let replies = Replies()
      let submission = try embedded.engine.submit(
        .encode(request), from: account, to: replies.sink)
      guard case .pending(let ticket) = submission else {
        Issue.record("encoding takes workers")
        return
      }
      let stages = try replies.stages()
      ticket.close()
      #expect(stages.map(\.granularity) == [1, 33, 160])
      #expect(stages.map(\.stopReason) == [nil, nil, .complete])
      for stage in stages {
        let codes = try dictionary.encoded(values, granularity: stage.granularity)
        #expect(stage.codes == codes)
        var errors = [Float](repeating: 0, count: tokens)
        var reconstruction = [Float](repeating: 0, count: tokens * 24)
        try values.withUnsafeBufferPointer {
          try SparseEncoder(dictionary).nestedDecode(
            codes, activations: $0, granularities: [stage.granularity], squaredErrors: &errors,
            reconstructions: &reconstruction)
        }
        // A later stage has not written over it.
        #expect(stage.squaredErrors.array(of: Float.self) == errors)
        #expect(stage.reconstruction?.data.array(of: Float.self) == reconstruction)
      }
    }
    #expect(embedded.engine.ledger.bytes.admitted == 0)
    #expect(embedded.engine.status().computedRequests == 4)
  }

  @Test("answers lists and its status at once, and decode calls from its workers")
  func others() throws {
    let embedded = try EmbeddedEngine()
    let account = embedded.account()
    let replies = Replies()
    guard
      case .answered(.models(let models)) = try embedded.engine.submit(
        .listModels, from: account, to: replies.sink),
      case .answered(.status(let status)) = try embedded.engine.submit(
        .status, from: account, to: replies.sink)
    else {
      Issue.record("both are known at once")
      return
    }
    #expect(models.map(\.name) == ["m"])
    #expect(status.ready)
    let codes = PackedCodes(rowOffsets: [0, 2], indices: [3, 9], values: [1, 2])
    _ = try embedded.engine.submit(
      .decode(DecodeRequest(model: "m", codes: codes)), from: account, to: replies.sink)
    guard case .decoded(let decoded)? = try replies.all().first else {
      Issue.record("not decoded")
      return
    }
    let expected = try SparseEncoder(dictionary).decode(
      SparseCodes(rowOffsets: [0, 2], indices: [3, 9], values: [1, 2]))
    #expect(decoded.reconstruction.data.array(of: Float.self) == expected)
  }

  @Test("refuses what is wrong, naming the field, and administration without the right to it")
  func refusals() throws {
    let embedded = try EmbeddedEngine()
    let (account, admin) = (embedded.account(), embedded.account(2, mayAdminister: true))
    let cases: [(Call, ErrorCode, String)] = [
      (
        .encode(request([Float](repeating: 0, count: 24), granularities: [161])), .invalidArgument,
        "161 is above the model's 160 latents"
      ),
      (.unloadModel(name: "../m", version: 0), .invalidArgument, "unload_model.name"),
      (.resizeModel(name: "m", granularity: 8), .permissionDenied, "resize_model: "),
    ]
    for (call, code, words) in cases {
      let error = #expect(throws: ServerError.self) {
        try embedded.engine.submit(call, from: account, to: Replies().sink)
      }
      #expect(error?.code == code)
      #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
    }
    let replies = Replies()
    _ = try embedded.engine.submit(
      .resizeModel(name: "m", granularity: 8), from: admin, to: replies.sink)
    guard case .model(let model)? = try replies.all().first else {
      Issue.record("not resized")
      return
    }
    #expect(model.versions.first?.residentLatents == 8)
  }

  @Test(
    "a call whose time runs out while workers are busy is told so; a cancelled one hears nothing")
  func deadline() throws {
    let embedded = try EmbeddedEngine {
      $0.workers = 1
      $0.limits.batchTokensMax = 65_536
      $0.limits.queueTokensMax = 1 << 20
    }
    let account = embedded.account()
    let long = Replies()
    _ = try embedded.engine.submit(
      .encode(request(values(tokens: 60_000, seed: 1))), from: account, to: long.sink)
    let short = request(values(tokens: 1, seed: 2))
    let cancelled = Replies()
    guard
      case .pending(let ticket) = try embedded.engine.submit(
        .encode(short), from: account, to: cancelled.sink)
    else { return }
    let late = Replies()
    _ = try embedded.engine.submit(
      .encode(short), from: account, deadline: Deadline(at: .now), to: late.sink)
    let error = #expect(throws: ServerError.self) { try late.all() }
    #expect(error?.code == .deadlineExceeded)
    if embedded.engine.cancel(ticket) {
      #expect(!embedded.engine.cancel(ticket), "it has ended")
      #expect(embedded.engine.status().cancelledRequests == 1)
    }
    #expect(try long.stages().count == 1)
  }

  @Test("the last reply finds its call counted, and room comes back with the tickets")
  func counts() throws {
    let embedded = try EmbeddedEngine { $0.limits.admittedBytesMax = 1 << 20 }
    let account = embedded.account()
    let tokens = values(tokens: 200, seed: 4)
    var tickets: [Ticket] = []
    var refused = 0
    for _ in 0..<200 {
      let replies = Replies()
      do {
        let submission = try embedded.engine.submit(
          .encode(request(tokens)), from: account, to: replies.sink)
        if case .pending(let ticket) = submission { tickets.append(ticket) }
        _ = try replies.stages()
      } catch let error as ServerError {
        #expect(error.code == .unavailable)
        refused += 1
      }
    }
    // Nobody gave the room back: what is held leaves ever less.
    #expect(!tickets.isEmpty)
    #expect(refused > 0)
    #expect(embedded.engine.status().refusedRequests == UInt64(refused))
    #expect(embedded.engine.ledger.bytes.admitted > 0)
    for ticket in tickets { ticket.close() }
    #expect(embedded.engine.ledger.bytes.admitted == 0)
  }

  @Test("versions published while it runs take over by themselves")
  func follows() throws {
    let embedded = try EmbeddedEngine { $0.pollInterval = .milliseconds(5) }
    let files = embedded.folder.path + "/dictionary"
    _ = try embedded.repository.publish(folder: files, name: "m")
    let account = embedded.account()
    var version: UInt64 = 0
    let end = ContinuousClock.now + .seconds(60)
    while version != 2, ContinuousClock.now < end {
      let replies = Replies()
      _ = try embedded.engine.submit(
        .encode(request(values(tokens: 1, seed: 1))), from: account, to: replies.sink)
      version = try replies.stages()[0].version
    }
    #expect(version == 2)
  }

  @Test("a folder that does not exist is refused by name")
  func noRepository() {
    let error = #expect(throws: EngineStartError.self) {
      _ = try Engine(EngineOptions(repository: "/none"))
    }
    #expect(
      error?.description == "repository /none: is not a folder; publish a dictionary first")
  }
}
