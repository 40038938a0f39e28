import GranuleEngine
import TestSupport
import Testing

private let start = ContinuousClock.now
/// Stand for two versions of a model.
private final class Version: Sendable {}
private let (groupX, groupY) = (Version(), Version())

private typealias TestScheduler = Scheduler<UInt64>

extension Scheduler {
  fileprivate mutating func add(
    _ item: Item, serial: UInt64, principal: UInt64 = 1, tokens: Int = 1,
    group: Version = groupX, bytesPerToken: Int = 0, deadline: Duration? = nil,
    isResumed: Bool = false
  ) {
    add(
      item,
      Work(
        serial: serial, principal: principal, group: ObjectIdentifier(group), tokens: tokens,
        bytesPerToken: bytesPerToken, since: start,
        deadline: deadline.map { start + $0 }), isResumed: isResumed)
  }

  fileprivate init(batch: Int = 64, bytes: Int = .max, pieceMin: Int = 32) {
    self.init(batchTokensMax: batch, batchBytesMax: bytes, pieceTokensMin: pieceMin)
  }
}

@Suite struct SchedulerTests {
  @Test("every token of every request is handed out once, in batches of one group within bounds")
  func completeness() {
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<200 {
      var scheduler = TestScheduler(batch: 64, bytes: 4096)
      var open: [UInt64: (principal: UInt64, tokens: Int, group: Version, deadline: Duration?)] =
        [:]
      var pieces: [UInt64: [TestScheduler.Piece]] = [:]
      var serial: UInt64 = 0
      var now = Duration.zero
      func check(_ batch: [TestScheduler.Piece]) {
        guard let first = batch.first else { return }
        let group = open[first.item]?.group
        #expect(batch.allSatisfy { open[$0.item]?.group === group }, "seed \(seed)")
        let tokens = batch.reduce(0) { $0 + $1.tokens.count }
        // 70 bytes a token: no more than 58 fit, of which 32 are whole blocks.
        #expect(tokens * 70 <= 4096, "seed \(seed): \(tokens)")
        for piece in batch { pieces[piece.item, default: []].append(piece) }
      }
      for _ in 0..<80 {
        now += .milliseconds(Int.random(in: 0..<5, using: &generator))
        switch Int.random(in: 0..<5, using: &generator) {
        case 0, 1:
          serial += 1
          let group = Bool.random(using: &generator) ? groupX : groupY
          let principal = UInt64.random(in: 0..<4, using: &generator)
          let tokens = Int.random(in: 0..<300, using: &generator)
          let deadline =
            Bool.random(using: &generator)
            ? now + .milliseconds(Int.random(in: 0..<20, using: &generator)) : nil
          open[serial] = (principal, tokens, group, deadline)
          scheduler.add(
            serial, serial: serial, principal: principal, tokens: tokens, group: group,
            bytesPerToken: 70, deadline: deadline, isResumed: Bool.random(using: &generator))
        case 2:
          let victim = UInt64.random(in: 0...serial, using: &generator)
          if scheduler.remove(victim) != nil {
            open[victim] = nil
            #expect(pieces[victim] == nil, "seed \(seed)")
          }
        case 3:
          for item in scheduler.removeExpired(now: start + now) {
            #expect(open[item]?.deadline ?? .seconds(999) <= now, "seed \(seed)")
            #expect(pieces[item] == nil, "seed \(seed)")
            open[item] = nil
          }
          let next = scheduler.nextDeadline
          #expect(next ?? start + .seconds(999) > start + now, "seed \(seed)")
          let waiting = open.filter { pieces[$0.key] == nil }.compactMap(\.value.deadline)
          #expect(waiting.allSatisfy { start + $0 >= next ?? start }, "seed \(seed)")
        default:
          check(scheduler.nextBatch(idleWorkers: Int.random(in: 0..<3, using: &generator)))
        }
        for principal: UInt64 in 0..<4 {
          let waiting = open.filter { $0.value.principal == principal }.reduce(0) {
            $0 + $1.value.tokens
              - (pieces[$1.key]?.reduce(0) { $0 + $1.tokens.count } ?? 0)
          }
          #expect(scheduler.waitingTokens(of: principal) == waiting, "seed \(seed)")
        }
      }
      while true {
        let batch = scheduler.nextBatch(idleWorkers: 1)
        guard !batch.isEmpty else { break }
        check(batch)
      }
      #expect(scheduler.waitingTokens == 0, "seed \(seed)")
      #expect(scheduler.waitingRequests == 0, "seed \(seed)")
      #expect(Set(pieces.keys) == Set(open.keys), "seed \(seed)")
      for (serial, request) in open {
        let own = pieces[serial] ?? []
        #expect(own.map(\.index) == Array(0..<own.count), "seed \(seed)")
        #expect(own.allSatisfy { $0.count == own.count }, "seed \(seed)")
        #expect(own.flatMap { Array($0.tokens) } == Array(0..<request.tokens), "seed \(seed)")
        #expect(
          own.allSatisfy { $0.tokens.lowerBound % TestScheduler.blockTokens == 0 }, "seed \(seed)")
      }
    }
  }

  @Test("a flood starves no trickle: what goes before a principal's only request is bounded")
  func boundedWait() {
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<100 {
      var scheduler = TestScheduler(batch: 256, pieceMin: 64)
      var serial: UInt64 = 0
      let floods = Int.random(in: 1...6, using: &generator)
      let sizes = (0..<floods).map { _ in
        [1, 33, 100, 129, 256, 5000][Int.random(in: 0..<6, using: &generator)]
      }
      let groups = (0..<floods).map { _ in Bool.random(using: &generator) ? groupX : groupY }
      func flood(_ principal: Int) {
        serial += 1
        scheduler.add(
          0, serial: serial, principal: UInt64(principal), tokens: sizes[principal],
          group: groups[principal])
      }
      for principal in 0..<floods { for _ in 0..<300 { flood(principal) } }
      for _ in 0..<20 {
        for _ in 0..<Int.random(in: 0..<5, using: &generator) {
          _ = scheduler.nextBatch(idleWorkers: Int.random(in: 0..<3, using: &generator))
        }
        serial += 1
        scheduler.add(1, serial: serial, principal: 99, tokens: 1)
        let bound = 3 * floods * 256
        var before = 0
        while before <= bound {
          let batch = scheduler.nextBatch(idleWorkers: Int.random(in: 0..<3, using: &generator))
          let place = batch.firstIndex { $0.item == 1 }
          before += batch[..<(place ?? batch.count)].reduce(0) { $0 + $1.tokens.count }
          if place != nil { break }
          guard !batch.isEmpty else {
            Issue.record("never handed out, seed \(seed)")
            return
          }
          // The floods go on.
          for principal in 0..<floods { flood(principal) }
        }
        guard before <= bound else {
          Issue.record("\(before) tokens go before it, seed \(seed): \(sizes)")
          return
        }
      }
    }
  }

  @Test("principals that always have work get equal tokens, whatever the sizes of their requests")
  func equalShares() {
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<50 {
      var scheduler = TestScheduler(batch: 256, pieceMin: 64)
      let sizes = (0..<4).map { _ in Int.random(in: 1...600, using: &generator) }
      var serial: UInt64 = 0
      var waiting = [0, 0, 0, 0]
      var taken = [0, 0, 0, 0]
      for _ in 0..<400 {
        for principal in 0..<4 {
          while waiting[principal] < 2000 {
            serial += 1
            waiting[principal] += sizes[principal]
            scheduler.add(
              UInt64(principal), serial: serial, principal: UInt64(principal),
              tokens: sizes[principal])
          }
        }
        for piece in scheduler.nextBatch(idleWorkers: 0) {
          taken[Int(piece.item)] += piece.tokens.count
          waiting[Int(piece.item)] -= piece.tokens.count
        }
        let spread = (taken.max() ?? 0) - (taken.min() ?? 0)
        #expect(spread <= 3 * 256, "seed \(seed): \(sizes) get \(taken)")
      }
    }
  }

  @Test("what memory limits is charged by memory: it costs its principal a turn")
  func turnsByBytes() {
    var scheduler = TestScheduler(batch: 256, bytes: 3200)
    // Pieces of 32 tokens fill a batch.
    scheduler.add(1, serial: 1, principal: 1, tokens: 128, bytesPerToken: 100)
    for serial: UInt64 in 2..<6 {
      scheduler.add(2, serial: serial, principal: 2, tokens: 256, bytesPerToken: 1)
    }
    var taken = [0, 0, 0]
    for _ in 0..<8 {
      for piece in scheduler.nextBatch(idleWorkers: 0) {
        taken[Int(piece.item)] += piece.tokens.count
      }
      #expect(taken[2] >= 4 * taken[1] || taken[1] <= 32, "\(taken)")
    }
    #expect(taken == [0, 128, 1024])
  }

  @Test("a principal waits behind as many turns of the others as it needs itself")
  func tokensAhead() {
    var scheduler = TestScheduler(batch: 256)
    #expect(scheduler.tokensAhead(of: 9, adding: 1000) == 0)
    for serial: UInt64 in 1...100 { scheduler.add(0, serial: serial, principal: 1, tokens: 256) }
    for serial: UInt64 in 101...110 { scheduler.add(0, serial: serial, principal: 2, tokens: 10) }
    #expect(scheduler.tokensAhead(of: 9, adding: 1) == 512)
    #expect(scheduler.tokensAhead(of: 9, adding: 300) == 1024)
    #expect(scheduler.tokensAhead(of: 9, adding: .max / 2) == 25_700)
    #expect(scheduler.tokensAhead(of: 1, adding: 1) == 25_700)
    #expect(scheduler.tokensAhead(of: 2, adding: 1) == 100 + 256)
  }

  @Test("small requests of several principals share a batch; other groups do not")
  func batches() {
    var scheduler = Scheduler<String>()
    for (index, name) in ["a1", "a2", "b1", "y1", "c1", "b2"].enumerated() {
      scheduler.add(
        name, serial: UInt64(index), principal: UInt64(name.utf8.first ?? 0), tokens: 10,
        group: name == "y1" ? groupY : groupX)
    }
    var order: [[String]] = []
    while true {
      let batch = scheduler.nextBatch(idleWorkers: 0)
      guard !batch.isEmpty else { break }
      order.append(batch.map(\.item))
    }
    #expect(order == [["a1", "a2", "b1", "b2", "c1"], ["y1"]])
  }

  @Test(
    "a further stage comes before its principal's other requests, not before other principals")
  func resumed() {
    var scheduler = Scheduler<String>()
    scheduler.add("a1", serial: 1, principal: 1, tokens: 64)
    scheduler.add("b1", serial: 2, principal: 2, tokens: 64)
    scheduler.add("a2", serial: 3, principal: 1, tokens: 64)
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.item) == ["a1"])
    scheduler.add("a1 again", serial: 1, principal: 1, tokens: 64, isResumed: true)
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.item) == ["b1"])
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.item) == ["a1 again"])
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.item) == ["a2"])
  }

  @Test("what little waits is shared among idle workers, in whole blocks")
  func sharing() {
    var scheduler = Scheduler<Int>(batch: 256, pieceMin: 64)
    scheduler.add(1, serial: 1, tokens: 256)
    #expect(scheduler.nextBatch(idleWorkers: 1).map(\.tokens) == [0..<128])
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.tokens) == [128..<256])
    // 346 tokens for two workers.
    scheduler.add(2, serial: 2, tokens: 256)
    scheduler.add(3, serial: 3, tokens: 90)
    #expect(scheduler.nextBatch(idleWorkers: 1).map(\.tokens) == [0..<128])
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.tokens) == [128..<256, 0..<90])
    scheduler.add(4, serial: 4, tokens: 1000)
    var sizes: [Int] = []
    while let piece = scheduler.nextBatch(idleWorkers: 0).first { sizes.append(piece.tokens.count) }
    #expect(sizes == [256, 256, 256, 232])
    // Memory for 100 tokens: 96 are whole blocks.
    scheduler = Scheduler<Int>(batch: 256, bytes: 1000)
    scheduler.add(5, serial: 5, tokens: 200, bytesPerToken: 10)
    #expect(scheduler.nextBatch(idleWorkers: 0).map(\.tokens) == [0..<96])
  }
}
