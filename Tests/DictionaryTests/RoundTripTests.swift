import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite("A dictionary that is written and read back")
struct RoundTripTests {
  @Test("is the same in every part, for every rule")
  func roundTrip() throws {
    let folder = try TemporaryFolder()
    for rule in [SelectionRule.topk(k: 3), .relu, .threshold([0, 0.5, 1, -1, 2, 0.25])] {
      let written = SparseAutoencoder.random(dModel: 5, latents: 6, rule: rule, seed: 2) {
        $0.granularities = [
          Granularity(latents: 2, k: 1, l0: 1.5, fvu: 0.75), Granularity(latents: 6, k: 3),
        ]
        $0.latentOrder = [3, 1, 0, 2, 5, 4]
        $0.provenance.languageModel = "a \"model\""
        $0.provenance.hook = "blocks.10.hook_resid_pre"
        $0.provenance.tokens = 1_000_000
        $0.provenance.activationScale = 0.1791708907084553
        $0.subtractsDecoderBias = rule != .relu
      }
      try written.write(to: folder.path)
      let read = try SparseAutoencoder(folder: folder.path)
      #expect(read.selectionRule == written.selectionRule)
      #expect(read.granularities == written.granularities)
      #expect(read.latentOrder == written.latentOrder)
      #expect(read.provenance == written.provenance)
      #expect(read.activationMean == written.activationMean)
      #expect(read.subtractsDecoderBias == written.subtractsDecoderBias)
      for part in [
        \SparseAutoencoder.encoderWeights, \.encoderBias, \.decoderWeights, \.decoderBias,
      ] {
        #expect(Array(read[keyPath: part].values) == Array(written[keyPath: part].values))
      }
    }
  }

  @Test("is refused with an order that names a latent twice, or none")
  func orders() throws {
    let folder = try TemporaryFolder()
    for (order, fault) in [([2, 1, 2], "twice"), ([0, -1, 2], "[1] is -1")] {
      try SparseAutoencoder.random(dModel: 4, latents: 3, rule: .relu, seed: 1) {
        $0.latentOrder = order
      }.write(to: folder.path)
      let error = #expect(throws: FileError.self) {
        try SparseAutoencoder(folder: folder.path)
      }
      #expect(error?.tensor == "latent_order" && error?.fault.contains(fault) == true)
    }
  }

  @Test("keeps what a distillation found of its first latents, as far as a prefix has them")
  func core() throws {
    let folder = try TemporaryFolder()
    let core = DistilledCore(
      attributions: [0.5, 0.25, 0.125], frequencies: [1, 0, 0.1], selections: [4, 2, 2], cycles: 5)
    let written = SparseAutoencoder.random(dModel: 4, latents: 6, rule: .relu, seed: 1) {
      $0.core = core
    }
    try written.write(to: folder.path)
    let read = try SparseAutoencoder(folder: folder.path)
    #expect(read.core == core && read.core?.latents == 3)
    #expect(read.standalone(granularity: 4).core == core)
    #expect(read.standalone(granularity: 2).core?.selections == [4, 2])
    #expect(read.permuted([1, 0, 2, 3, 4, 5]).core == nil)

    // Each of its tensors wrong in a way of its own.
    let path = "\(folder.path)/\(DictionaryFiles.companionName)"
    let seven = [Int64](repeating: 1, count: 7)
    let ones = FloatStorage([Float](repeating: 1, count: 7))
    func write(
      attribution: Int = 3, frequency: Int = 3, first: Int64 = 1, selections: Int = 3,
      cycles: Int = 1
    ) throws {
      var counts = seven
      counts[0] = first
      try counts.withBytes { bytes in
        func integers(_ count: Int) -> UnsafeRawBufferPointer {
          .init(rebasing: bytes[..<(8 * count)])
        }
        func floats(_ count: Int) -> FloatStorage { FloatStorage(Array(ones.values[..<count])) }
        try SafetensorsWriter.write(
          [
            .init("core_attribution", [attribution], floats(attribution)),
            .init("core_frequency", [frequency], floats(frequency)),
            .init("core_selections", .int64, [selections], integers(selections)),
            .init("core_cycles", .int64, [cycles], integers(cycles)),
          ], to: path)
      }
    }
    try write()
    #expect(try SparseAutoencoder(folder: folder.path).core?.latents == 3)
    for (wrong, tensor) in [
      ({ try write(attribution: 7, frequency: 7, selections: 7) }, "core_attribution"),
      ({ try write(attribution: 0, frequency: 0, selections: 0) }, "core_attribution"),
      ({ try write(frequency: 2) }, "core_frequency"),
      ({ try write(selections: 4) }, "core_selections"),
      ({ try write(first: -1) }, "core_selections"),
      ({ try write(cycles: 2) }, "core_cycles"),
    ] as [(() throws -> Void, String)] {
      try wrong()
      let error = #expect(throws: FileError.self) {
        try SparseAutoencoder(folder: folder.path)
      }
      #expect(error?.tensor == tensor)
    }
  }

  @Test("a new folder is written whole, and one that is there is left alone")
  func newFolder() throws {
    let folder = try TemporaryFolder()
    let dictionary = SparseAutoencoder.random(dModel: 4, latents: 3, rule: .relu, seed: 1)
    let path = "\(folder.path)/deep/er"
    try dictionary.write(newFolder: path)
    #expect(try SparseAutoencoder(folder: path).latents == 3)
    #expect(throws: FileError.self) { try dictionary.write(newFolder: path) }
    let names = try FileManager.default.contentsOfDirectory(atPath: "\(folder.path)/deep")
    #expect(names == ["er"])
  }
}
