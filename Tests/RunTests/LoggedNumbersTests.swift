import Foundation
import GranuleData
import GranuleFiles
import GranuleObjective
import GranuleRun
import TestSupport
import Testing

/// The scalars of an event file: by step and tag, as TensorBoard would show them.
private func scalars(ofEventFile path: String) throws -> [(step: Int, tag: String, value: Float)] {
  var bytes = try ArraySlice(Data(contentsOf: URL(fileURLWithPath: path)))
  var found: [(step: Int, tag: String, value: Float)] = []
  while !bytes.isEmpty {
    let length = littleEndian(bytes.prefix(8))
    let payload = bytes.dropFirst(12).prefix(length)
    bytes = bytes.dropFirst(12 + length + 4)
    let event = fields(payload)
    let step = event.first { $0.number == 2 }?.integer ?? 0
    for summary in event where summary.number == 5 {
      for value in fields(summary.bytes) where value.number == 1 {
        let parts = fields(value.bytes)
        let tag = parts.first { $0.number == 1 }.map { String(decoding: $0.bytes, as: UTF8.self) }
        let bits = parts.first { $0.number == 2 }?.integer
        found.append(
          (step, try #require(tag), Float(bitPattern: UInt32(try #require(bits)))))
      }
    }
  }
  return found
}

private func littleEndian(_ bytes: ArraySlice<UInt8>) -> Int {
  bytes.reversed().reduce(0) { $0 << 8 | Int($1) }
}

/// A message's fields by protobuf's encoding: numbers of any width as integers.
private func fields(
  _ message: ArraySlice<UInt8>
) -> [(number: Int, integer: Int, bytes: ArraySlice<UInt8>)] {
  var rest = message
  func varint() -> Int {
    var (value, shift) = (0, 0)
    while let byte = rest.popFirst() {
      value |= Int(byte & 127) << shift
      shift += 7
      if byte < 128 { break }
    }
    return value
  }
  var fields: [(number: Int, integer: Int, bytes: ArraySlice<UInt8>)] = []
  while !rest.isEmpty {
    let key = varint()
    switch key & 7 {
    case 0: fields.append((key >> 3, varint(), []))
    case 1, 5:
      let width = key & 7 == 1 ? 8 : 4
      // A double's sign bit would not fit; none is looked at.
      fields.append((key >> 3, width == 4 ? littleEndian(rest.prefix(4)) : 0, rest.prefix(width)))
      rest = rest.dropFirst(width)
    default:
      let length = varint()
      fields.append((key >> 3, 0, rest.prefix(length)))
      rest = rest.dropFirst(length)
    }
  }
  return fields
}

extension TrainerTests {
  @Test("has the same numbers for TensorBoard as in its log, also after it was resumed")
  func tensorBoard() throws {
    var configuration = configuration(.batchtopk)
    configuration.prefixLosses = .listed(weights: nil)
    var done = 0
    _ = try Trainer(configuration, run: run("a")).train(
      onProgress: { done = $0.step }, shouldStop: { done == 17 })
    for isResumed in [false, true] {
      // From an earlier checkpoint, so that some steps are taken again.
      if isResumed {
        try FileManager.default.removeItem(atPath: "\(run("a"))/checkpoints/step-17")
        _ = try Trainer(resuming: run("a")).train()
      }
      var logged: [String: Float] = [:]
      for line in try String(contentsOfFile: "\(run("a"))/metrics.jsonl", encoding: .utf8)
        .split(separator: "\n")
      {
        let line = try StrictJSON.parse(String(line))
        let step = try #require(line["step"]?.integer)
        for member in try #require(line.members) where !["step", "time"].contains(member.key) {
          if let number = member.value.number { logged["\(step) \(member.key)"] = Float(number) }
          for inner in member.value.members ?? [] {
            logged["\(step) \(member.key)/\(inner.key)"] = inner.value.number.map { Float($0) }
          }
        }
      }
      var shown: [String: Float] = [:]
      for scalar in try scalars(
        ofEventFile: "\(run("a"))/tensorboard/events.out.tfevents.granule")
      {
        let old = shown.updateValue(scalar.value, forKey: "\(scalar.step) \(scalar.tag)")
        #expect(old == nil, "step \(scalar.step) has \(scalar.tag) twice")
      }
      let isSame = shown == logged
      #expect(isSame)
      let last = isResumed ? 40 : 17
      #expect(shown["\(last) loss"] != nil && shown["\(last) fvu/20"] != nil)
      #expect(shown["14 held_out_fvu"] != nil && shown["\(last + 1) loss"] == nil)
    }
  }

  @Test("holds out whole sequences, the last, and trains on every token of all others")
  func heldOutTokens() throws {
    let split = try Trainer(configuration(), run: run("a"))
    func rows(_ dataset: ActivationDataset?) -> [String]? {
      dataset.map { dataset in (0..<dataset.tokens).map { dataset.describe(token: $0) } }
    }
    // Of each sequence of 21 rows the first is dropped.
    func expected(_ sequences: Range<Int>) -> [String] {
      sequences.flatMap { sequence in
        (1..<21).map { "\(activations), row \(21 * sequence + $0)" }
      }
    }
    #expect(try rows(split.source.training) == expected(0..<10))
    #expect(try rows(split.source.heldOut) == expected(10..<12))

    // By default a tenth, at least one; of sequences of different lengths as harvested files have them.
    var unset = configuration()
    unset.activations.heldOutSequences = nil
    #expect(try rows(Trainer(unset, run: run("b")).source.heldOut) == expected(11..<12))
    unset.activations.sequences = 2..<7
    let part = try Trainer(unset, run: run("c"))
    #expect(try rows(part.source.training) == expected(2..<6))
    #expect(try rows(part.source.heldOut) == expected(6..<7))
    unset.activations.heldOutSequences = 0
    #expect(try Trainer(unset, run: run("d")).source.heldOut == nil)
  }

  @Test("warms its learning rate up and lets it decay, linearly")
  func learningRate() {
    var configuration = configuration()
    configuration.tokens = 1000
    configuration.learningRate = 8
    configuration.warmUpSteps = 4
    configuration.decaySteps = 4
    func rates() -> [Double] { (0..<10).map { configuration.learningRate(atStep: $0) } }
    #expect(rates() == [2, 4, 6, 8, 8, 8, 8, 6, 4, 2])
    configuration.warmUpSteps = 0
    configuration.decaySteps = 0
    #expect(rates() == [Double](repeating: 8, count: 10))
    // Where they meet, the one scales the other.
    configuration.warmUpSteps = 8
    configuration.decaySteps = 4
    #expect(rates() == [1, 2, 3, 4, 5, 6, 7, 6, 4, 2])
    // By default 5 % of the run, at most 1,000 steps, and a fifth.
    configuration.warmUpSteps = nil
    configuration.decaySteps = nil
    configuration.tokens = 100 * 100
    #expect(configuration.learningRate(atStep: 0) == 8.0 / 5)
    #expect(
      configuration.learningRate(atStep: 4) == 8 && configuration.learningRate(atStep: 80) == 8)
    #expect(configuration.learningRate(atStep: 90) == 4)
    #expect(configuration.learningRate(atStep: 99) == 8.0 / 20)
    configuration.tokens = 100 * 100_000
    #expect(configuration.learningRate(atStep: 499) == 4)
  }
}
