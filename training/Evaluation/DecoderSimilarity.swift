internal import GranuleBLAS
public import GranuleDictionary
internal import GranuleLanguageModel
internal import GranuleStatistics
internal import GranuleTensors
internal import GranuleThreads

/// How much the decoder rows of one granularity's latents repeat those of earlier ones: feature
/// splitting shows as latents whose largest cosine with an earlier latent is high, nested training
/// as steps of it at the granularities.
public struct DecoderSimilarity: Sendable {
  /// The latents that a granularity adds to the one before.
  public struct Block: Sendable {
    /// Their indices.
    public var latents: Range<Int>
    /// For this block and each before it, first block first: the mean over this block's latents of
    /// the largest cosine with a latent of that block, itself apart. nil if that has no other.
    public var meanMaximumCosines: [Double?]
    /// Of each latent, its largest cosine with a latent of all earlier blocks, ascending; empty for
    /// the first block.
    public var maximumEarlierCosines: [Float]

    /// The mean of `maximumEarlierCosines`; nil for the first block.
    public var meanMaximumEarlierCosine: Double? {
      maximumEarlierCosines.isEmpty
        ? nil
        : maximumEarlierCosines.reduce(0.0) { $0 + Double($1) }
          / Double(maximumEarlierCosines.count)
    }

    /// A quantile of `maximumEarlierCosines`, 0 … 1, linearly interpolated; nil for the first block.
    public func earlierCosine(quantile: Double) -> Double? {
      maximumEarlierCosines.isEmpty
        ? nil
        : Quantile.interpolated(quantile, count: maximumEarlierCosines.count) {
          Double(maximumEarlierCosines[$0])
        }
    }

    /// The share of latents whose largest cosine with an earlier latent is more than `cosine`; nil
    /// for the first block.
    public func shareAbove(cosine: Float) -> Double? {
      guard !maximumEarlierCosines.isEmpty else { return nil }
      return Double(maximumEarlierCosines.count { $0 > cosine })
        / Double(maximumEarlierCosines.count)
    }
  }

  /// A block for each granularity, and one for what latents are beyond the last.
  public var blocks: [Block]

  private static let tileRows = 256
  private static let tileColumns = 512

  /// Compares all pairs of decoder rows, on all cores: N² · d_model operations, memory for a few
  /// copies of the decoder at most. A row of zeros has the cosine 0 with every other.
  ///
  /// - Parameters:
  ///   - granularities: ascending, each 1 … latents.
  ///   - onProgress: told the share done, 0 … 1, from the calling thread.
  ///   - shouldStop: asked now and then; true ends with `CancellationError`.
  /// - Throws: nothing but that.
  public init(
    _ dictionary: SparseAutoencoder, granularities: [Int],
    onProgress: (Double) -> Void = { _ in }, shouldStop: () -> Bool = { false }
  ) throws {
    let (latents, dModel) = (dictionary.latents, dictionary.dModel)
    precondition(zip([0] + granularities, granularities).allSatisfy { $0 < $1 })
    precondition(granularities.last ?? 0 <= latents)
    var ends = granularities
    if ends.last != latents { ends.append(latents) }
    let ranges = zip([0] + ends, ends).map { $0..<$1 }
    let rows = Self.unitRows(dictionary)

    // maxima[latent * blocks + block], for the latent's own block and those before.
    let maxima = FloatStorage([Float](repeating: -2, count: latents * ranges.count))
    let group = Self.tileRows * Parallel.threads * 4
    for start in stride(from: 0, to: latents, by: group) {
      if shouldStop() { throw CancellationError() }
      let end = min(start + group, latents)
      Parallel.forBlocks(end - start, size: Self.tileRows) { _, tile in
        let tile = start + tile.lowerBound..<start + tile.upperBound
        Self.addMaxima(of: tile, rows, dModel: dModel, ranges, into: maxima)
      }
      // What is compared grows with the index.
      onProgress(Double(end) * Double(end) / (Double(latents) * Double(latents)))
    }

    blocks = ranges.enumerated().map { number, range in
      let means = (0...number).map { earlier -> Double? in
        if earlier == number, range.count < 2 { return nil }
        let sum = range.reduce(0.0) {
          $0 + Double(maxima.pointer[$1 * ranges.count + earlier])
        }
        return sum / Double(range.count)
      }
      let earlier =
        number == 0
        ? []
        : range.map { latent in
          (0..<number).map { maxima.pointer[latent * ranges.count + $0] }.max() ?? 0
        }.sorted()
      return Block(latents: range, meanMaximumCosines: means, maximumEarlierCosines: earlier)
    }
  }

  /// Compares some latents with all of their own blocks and of earlier ones.
  private static func addMaxima(
    of tile: Range<Int>, _ rows: FloatStorage, dModel: Int, _ ranges: [Range<Int>],
    into maxima: FloatStorage
  ) {
    let products = FloatStorage(count: tileRows * tileColumns)
    for (block, range) in ranges.enumerated() where range.lowerBound < tile.upperBound {
      for start in stride(from: range.lowerBound, to: range.upperBound, by: tileColumns) {
        let columns = start..<min(start + tileColumns, range.upperBound)
        BLAS.multiply(
          .init(rows.pointer + tile.lowerBound * dModel, stride: dModel),
          .init(rows.pointer + columns.lowerBound * dModel, stride: dModel, transposed: true),
          rows: tile.count, columns: columns.count, inner: dModel, into: products.pointer,
          stride: tileColumns)
        // Of a tile across blocks, the latents of those before this one do not count.
        for latent in max(tile.lowerBound, range.lowerBound)..<tile.upperBound {
          let row = products.pointer + (latent - tile.lowerBound) * tileColumns
          let slot = maxima.pointer + latent * ranges.count + block
          var largest = slot.pointee
          for column in columns where column != latent {
            largest = max(largest, row[column - columns.lowerBound])
          }
          slot.pointee = largest
        }
      }
    }
  }

  private static func unitRows(_ dictionary: SparseAutoencoder) -> FloatStorage {
    let dModel = dictionary.dModel
    let rows = FloatStorage(count: dictionary.decoderWeights.count)
    for latent in 0..<dictionary.latents {
      let source = dictionary.decoderWeights.pointer + latent * dModel
      let squares = (0..<dModel).reduce(0.0) { $0 + Double(source[$1]) * Double(source[$1]) }
      guard squares > 0 else { continue }
      let scale = 1 / squares.squareRoot()
      for i in 0..<dModel {
        rows.pointer[latent * dModel + i] = Float(Double(source[i]) * scale)
      }
    }
    return rows
  }
}
