import Dispatch
import GranuleData
import GranuleErrors
import GranuleTensors
import TestSupport
import Testing

@Suite("Pushed activations")
struct PushedActivationsTests {
  /// Rows of two values, the first their number.
  func rows(_ range: Range<Int>) -> [Float] { range.flatMap { [Float($0), 1] } }

  func order(batchTokens: Int, seed: UInt64 = 3) -> BatchOrder {
    BatchOrder(batchTokens: batchTokens, firstStep: 0, endStep: 1000, seed: seed, scale: 2)
  }

  /// The numbers of all rows that a reader delivers, batch by batch.
  func drain(_ reader: any BatchReader) throws -> [[Int]] {
    var batches: [[Int]] = []
    while let batch = try reader.next() {
      for (row, number) in batch.indices.enumerated() {
        #expect(batch.activations.pointer[2 * row] == 2 * Float(number))
      }
      #expect(reader.describe(row: 0) == "pushed row \(batch.indices[0])")
      batches.append(batch.indices)
    }
    return batches
  }

  @Test("are delivered once each, shuffled within windows, the last batch filled up")
  func delivery() throws {
    let source = try PushedActivations(dModel: 2, windowRows: 40, heldOutEvery: 0)
    #expect(!source.isReady)
    #expect(try source.push(rows(0..<70)) == .taken)
    #expect(source.isReady)
    source.end()
    let batches = try drain(source.batches(order(batchTokens: 20)))
    #expect(batches.count == 4)
    let all = batches.flatMap(\.self)
    #expect(all[..<40].sorted() == Array(0..<40) && all[..<40] != ArraySlice(0..<40))
    #expect(all[40..<70].sorted() == Array(40..<70) && all[70...].allSatisfy { $0 >= 40 })
    #expect(try source.training?.tokens == 30 && source.heldOut == nil)
    let error = #expect(throws: TrainingError.self) { try source.push(rows(70..<71)) }
    #expect(error?.kind == .streamClosed)
  }

  @Test("come in an order that the seed decides alone")
  func seeds() throws {
    func batches(seed: UInt64) throws -> [[Int]] {
      let source = try PushedActivations(dModel: 2, windowRows: 100, heldOutEvery: 0)
      for start in stride(from: 0, to: 100, by: 7) {
        try source.push(rows(start..<min(start + 7, 100)))
      }
      source.end()
      return try drain(source.batches(order(batchTokens: 10, seed: seed)))
    }
    #expect(try batches(seed: 1) == batches(seed: 1))
    #expect(try batches(seed: 1) != batches(seed: 2))
  }

  @Test("are held out by blocks, and stay for validation")
  func heldOut() throws {
    let source = try PushedActivations(
      dModel: 2, windowRows: 30_000, heldOutEvery: 4, heldOutRows: 2_000)
    try source.push(rows(0..<20_480))
    source.end()
    let trained = try drain(source.batches(order(batchTokens: 512))).flatMap(\.self)
    let rowsHeldOut = try source.heldOut
    let heldOut = try #require(rowsHeldOut)
    let numbers = Set(
      (0..<heldOut.tokens).map { token -> Int in
        var row: [Float] = [0, 0]
        heldOut.copyToken(token, into: &row)
        return Int(row[0])
      })
    #expect(numbers.count == 2_000 && numbers.isDisjoint(with: trained))
    #expect(Set(trained).union(numbers) == Set(0..<20_480))
    #expect(Set(numbers.map { $0 / 512 }).count == 4)
  }

  @Test("are refused while the windows are full, if asked so")
  func refusing() throws {
    let source = try PushedActivations(
      dModel: 2, windowRows: 10, whenFull: .refuses, heldOutEvery: 0)
    #expect(try source.push(rows(0..<10)) == .taken)
    #expect(try source.push(rows(10..<18)) == .taken)
    #expect(try source.push(rows(18..<21)) == .full)
    let reader = source.batches(order(batchTokens: 10))
    _ = try reader.next()
    #expect(try source.push(rows(18..<21)) == .taken)
    source.finish()
    #expect(try source.push(rows(21..<22)) == .finished)
    #expect(throws: TrainingError.self) { try source.push(rows(0..<11)) }
  }

  @Test("wait for the run while the windows are full")
  func waiting() throws {
    let source = try PushedActivations(dModel: 2, windowRows: 16, heldOutEvery: 0)
    let done = DispatchSemaphore(value: 0)
    let all = rows(0..<1000)
    DispatchQueue.global().async {
      for start in stride(from: 0, to: 2000, by: 50) {
        _ = try? source.push(Array(all[start..<start + 50]))
      }
      source.end()
      done.signal()
    }
    let numbers = try drain(source.batches(order(batchTokens: 8))).flatMap(\.self)
    #expect(numbers.sorted() == Array(0..<1000))
    done.wait()
  }

  @Test("that are aborted, malformed or none say so")
  func faults() throws {
    let source = try PushedActivations(dModel: 2, windowRows: 16)
    for values: [Float] in [[1], [1, 2, .nan, 3]] {
      #expect(throws: TrainingError.self) { try source.push(values) }
    }
    let reader = source.batches(order(batchTokens: 8))
    source.abort("the language model failed")
    let error = #expect(throws: TrainingError.self) { try reader.next() }
    #expect(error?.kind == .streamClosed && error?.description.contains("model failed") == true)
    let empty = try PushedActivations(dModel: 2)
    empty.end()
    #expect(throws: TrainingError.self) { try empty.statistics() }
    #expect(throws: TrainingError.self) { try PushedActivations(dModel: 0) }
  }
}
