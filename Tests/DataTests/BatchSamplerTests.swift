import GranuleData
import GranuleTensors
import TestSupport
import Testing

@Suite("The order of tokens")
struct BatchSamplerTests {
  let folder: TemporaryFolder
  /// Of more than two windows, the last chunk shorter than the others.
  let tokens = 2 * BatchSampler.windowChunks * BatchSampler.chunkTokens + 777

  init() throws {
    folder = try TemporaryFolder()
    // Several shards, each token its own index.
    for (shard, range) in [0..<50_000, 50_000..<50_001, 50_001..<tokens].enumerated() {
      try writeNumpy(
        range.map { Float($0) }, shape: [range.count, 1], to: "\(folder.path)/\(shard).npy")
    }
  }

  func sampler(seed: UInt64 = 7) throws -> BatchSampler {
    try BatchSampler(ActivationDataset(paths: [folder.path]), scale: 2, seed: seed)
  }

  @Test("holds every token once an epoch, each epoch in another order")
  func epochs() throws {
    var sampler = try sampler()
    let first = (0..<tokens).map { sampler.index(at: $0) }
    let second = (tokens..<2 * tokens).map { sampler.index(at: $0) }
    let isEach = first.sorted() == Array(0..<tokens) && second.sorted() == Array(0..<tokens)
    #expect(isEach)
    let isOther = first != second
    #expect(isOther)
    // Each batch mixes all shards' places: the mean of 4,096 uniform ones is off by 0.45 %.
    let mean = first[..<4096].reduce(0, +) / 4096
    #expect(abs(mean - tokens / 2) < tokens / 40)
  }

  @Test("is a function of seed and step alone, wherever it begins")
  func anyStep() throws {
    var whole = try sampler()
    let batch = FloatStorage(count: 1000)
    var read: [[Int]] = []
    for step in 0..<300 {
      read.append(whole.read(step: step, into: batch))
      let isScaled = zip(batch.values, read[step]).allSatisfy { $0 == 2 * Float($1) }
      #expect(isScaled)
    }
    for step in [299, 0, 131, 132, 65, 264] {
      var other = try sampler()
      let isSame = other.read(step: step, into: batch) == read[step]
      #expect(isSame, "step \(step)")
    }
    var reseeded = try sampler(seed: 8)
    let isOther = reseeded.read(step: 0, into: batch) != read[0]
    #expect(isOther)
  }

  @Test("reads ahead what it would read in turn")
  func prefetching() throws {
    var sampler = try sampler()
    let expected = FloatStorage(count: 500)
    let prefetcher = BatchPrefetcher(try self.sampler(), batchTokens: 500, step: 3, steps: 9)
    for step in 3..<9 {
      let batch = try #require(prefetcher.next())
      let indices = sampler.read(step: step, into: expected)
      let isSame =
        batch.indices == indices && batch.activations.values.elementsEqual(expected.values)
      #expect(isSame && batch.secondsWaited >= 0)
    }
  }
}
