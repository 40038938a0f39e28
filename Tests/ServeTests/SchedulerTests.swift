import Serve
import TestSupport
import Testing

@Suite struct SchedulerTests {
  @Test("every token of every request is handed out once, whatever the order of calls")
  func completeness() {
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<200 {
      var scheduler = Scheduler<UInt64>(pieceTokensMax: 64, pieceTokensMin: 32)
      var open: [UInt64: Int] = [:]
      var pieces: [UInt64: [Scheduler<UInt64>.Piece]] = [:]
      var serial: UInt64 = 0
      for _ in 0..<60 {
        switch Int.random(in: 0..<4, using: &generator) {
        case 0, 1:
          serial += 1
          open[serial] = Int.random(in: 0..<300, using: &generator)
          scheduler.add(
            serial, serial: serial, connection: UInt64.random(in: 0..<4, using: &generator),
            tokens: open[serial] ?? 0, isDivisible: Bool.random(using: &generator))
        case 2:
          let victim = UInt64.random(in: 0...serial, using: &generator)
          if scheduler.remove(victim) != nil {
            open[victim] = nil
            #expect(pieces[victim] == nil, "seed \(seed)")
          }
        default:
          if let piece = scheduler.next(idleWorkers: Int.random(in: 0..<3, using: &generator)) {
            pieces[piece.item, default: []].append(piece)
          }
        }
      }
      while let piece = scheduler.next(idleWorkers: 1) {
        pieces[piece.item, default: []].append(piece)
      }
      #expect(scheduler.waitingTokens == 0, "seed \(seed)")
      #expect(scheduler.waitingRequests == 0, "seed \(seed)")
      #expect(Set(pieces.keys) == Set(open.keys), "seed \(seed)")
      for (serial, tokens) in open {
        let own = pieces[serial] ?? []
        #expect(own.map(\.index) == Array(0..<own.count), "seed \(seed)")
        #expect(own.allSatisfy { $0.count == own.count }, "seed \(seed)")
        #expect(own.flatMap { Array($0.tokens) } == Array(0..<tokens), "seed \(seed)")
      }
    }
  }

  @Test("connections take turns, each in the order of arrival")
  func turns() {
    var scheduler = Scheduler<String>(pieceTokensMax: 64, pieceTokensMin: 32)
    for (index, name) in ["a1", "a2", "a3", "b1", "c1", "b2"].enumerated() {
      scheduler.add(
        name, serial: UInt64(index), connection: UInt64(name.utf8.first ?? 0), tokens: 1,
        isDivisible: true)
    }
    var order: [String] = []
    while let piece = scheduler.next(idleWorkers: 0) { order.append(piece.item) }
    #expect(order == ["a1", "b1", "c1", "a2", "b2", "a3"])
  }

  @Test("a request alone is shared among idle workers; with others waiting it is not")
  func sharing() {
    var scheduler = Scheduler<Int>(pieceTokensMax: 256, pieceTokensMin: 64)
    scheduler.add(1, serial: 1, connection: 1, tokens: 256, isDivisible: true)
    #expect(scheduler.next(idleWorkers: 1)?.tokens == 0..<128)
    #expect(scheduler.next(idleWorkers: 0)?.tokens == 128..<256)
    scheduler.add(2, serial: 2, connection: 1, tokens: 256, isDivisible: true)
    scheduler.add(3, serial: 3, connection: 1, tokens: 90, isDivisible: true)
    #expect(scheduler.next(idleWorkers: 1)?.tokens == 0..<256)
    #expect(scheduler.next(idleWorkers: 1)?.tokens == 0..<90)
    scheduler.add(4, serial: 4, connection: 1, tokens: 1000, isDivisible: true)
    var sizes: [Int] = []
    while let piece = scheduler.next(idleWorkers: 0) { sizes.append(piece.tokens.count) }
    #expect(sizes == [256, 256, 256, 232])
  }
}
