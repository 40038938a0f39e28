import CGranuleKernels
import GranuleBLAS
import GranuleCommandLine
import GranuleDictionary
import GranuleLanguageModel
import GranuleTensors
import GranuleThreads

/// The baseline that encoding is measured against: every pre-activation by OpenBLAS, then the k
/// largest of each row, on the same number of threads.
final class DenseEncodeBaseline {
  /// Number of tokens multiplied at a time, which bounds the memory of their scores.
  static let blockTokens = 256
  /// Number of values in a group, of which the first pass reads only the largest.
  private static let groupValues = 16

  private let dictionary: SparseAutoencoder
  private let granularity: Int
  private let k: Int
  private let threads: Int
  private let inputs: FloatStorage  // [blockTokens, d_model]
  private let scores: FloatStorage  // [blockTokens, granularity]
  private var scratch: [Scratch]

  /// The active latents of a call's tokens, in no order: row t has `counts[t]` of `k`.
  struct Codes {
    fileprivate(set) var counts: [Int]
    fileprivate(set) var latents: [UInt32]
    fileprivate(set) var values: [Float]
    let k: Int

    fileprivate init(tokens: Int, k: Int) {
      counts = Array(repeating: 0, count: tokens)
      latents = Array(repeating: 0, count: tokens * k)
      values = Array(repeating: 0, count: tokens * k)
      self.k = k
    }

    /// One token's latents with their values.
    func row(_ token: Int) -> [UInt32: Float] {
      let range = token * k..<token * k + counts[token]
      return Dictionary(uniqueKeysWithValues: zip(latents[range], values[range]))
    }
  }

  /// The memory in which one thread selects.
  private struct Scratch {
    let groupMaxima: FloatStorage  // [granularity / groupValues]
    let values: FloatStorage  // [granularity]
    let latents: UnsafeMutablePointer<UInt32>  // [granularity]
  }

  /// - Parameter threads: number of threads for the products and for the selection.
  /// - Throws: `CommandError.input` if the dictionary is not a TopK one without input normalisation.
  init(_ dictionary: SparseAutoencoder, granularity: Int, k: Int, threads: Int) throws {
    guard case .topk = dictionary.selectionRule, dictionary.inputNormalization == .none else {
      throw CommandError.input(
        "only a TopK dictionary without normalize_activations can be measured, but this one is "
          + "\(dictionary.selectionRule.name) with \(dictionary.inputNormalization.rawValue)")
    }
    self.dictionary = dictionary
    self.granularity = granularity
    self.k = k
    self.threads = threads
    inputs = FloatStorage(count: Self.blockTokens * dictionary.dModel)
    scores = FloatStorage(count: Self.blockTokens * granularity)
    scratch = (0..<threads).map { _ in
      Scratch(
        groupMaxima: FloatStorage(count: granularity / Self.groupValues),
        values: FloatStorage(count: granularity), latents: .allocate(capacity: granularity))
    }
  }

  deinit { for scratch in scratch { scratch.latents.deallocate() } }

  /// Encodes activations: [tokens, d_model].
  func encode(_ activations: UnsafePointer<Float>, tokens: Int) -> Codes {
    var codes = Codes(tokens: tokens, k: k)
    codes.counts.withUnsafeMutableBufferPointer { counts in
      codes.latents.withUnsafeMutableBufferPointer { latents in
        codes.values.withUnsafeMutableBufferPointer { values in
          for start in stride(from: 0, to: tokens, by: Self.blockTokens) {
            let count = min(Self.blockTokens, tokens - start)
            score(activations + start * dictionary.dModel, tokens: count)
            // A range for each thread; no two write to the same rows.
            let parts = min(threads, count)
            Parallel.forBlocks(parts, size: 1) { _, part in
              let part = part.lowerBound
              for token in count * part / parts..<count * (part + 1) / parts {
                let place = (start + token) * k
                counts[start + token] = select(
                  scores.pointer + token * granularity, scratch[part],
                  latents.baseAddress! + place, values.baseAddress! + place)
              }
            }
          }
        }
      }
    }
    return codes
  }

  /// scores := (x − b_dec) W_encᵀ + b_enc
  private func score(_ activations: UnsafePointer<Float>, tokens: Int) {
    let dModel = dictionary.dModel
    let center = dictionary.decoderBias.pointer
    for token in 0..<tokens {
      let (from, to) = (activations + token * dModel, inputs.pointer + token * dModel)
      if dictionary.subtractsDecoderBias {
        for i in 0..<dModel { to[i] = from[i] - center[i] }
      } else {
        to.update(from: from, count: dModel)
      }
      (scores.pointer + token * granularity).update(
        from: dictionary.encoderBias.pointer, count: granularity)
    }
    // A range of tokens for each thread, or of latents where tokens are few.
    let splitsTokens = tokens >= 32 * threads
    Parallel.perform(threads) { thread in
      func part(_ count: Int) -> Range<Int> {
        count * thread / threads..<count * (thread + 1) / threads
      }
      let rows = splitsTokens ? part(tokens) : 0..<tokens
      let latents = splitsTokens ? 0..<granularity : part(granularity)
      guard !rows.isEmpty, !latents.isEmpty else { return }
      let inputs = inputs.pointer + rows.lowerBound * dModel
      let weights = dictionary.encoderWeights.pointer + latents.lowerBound * dModel
      let scores = scores.pointer + rows.lowerBound * granularity + latents.lowerBound
      if rows.count == 1 {
        BLAS.addProduct(of: weights, inputs, rows: latents.count, columns: dModel, to: scores)
      } else {
        BLAS.multiply(
          .init(inputs, stride: dModel), .init(weights, stride: dModel, transposed: true),
          rows: rows.count, columns: latents.count, inner: dModel, into: scores,
          stride: granularity, accumulating: true)
      }
    }
  }

  /// The k largest of one row that are > 0; returns how many.
  ///
  /// The k-th largest of the maxima of groups is at most the k-th largest of all, so one pass for
  /// those maxima leaves few groups to look into.
  private func select(
    _ row: UnsafePointer<Float>, _ scratch: Scratch, _ latents: UnsafeMutablePointer<UInt32>,
    _ values: UnsafeMutablePointer<Float>
  ) -> Int {
    let width = Self.groupValues
    let groups = granularity / width
    var candidates = 0
    func consider(_ range: Range<Int>, _ floor: Float) {
      for latent in range where row[latent] >= floor {
        scratch.values.pointer[candidates] = row[latent]
        scratch.latents[candidates] = UInt32(latent)
        candidates += 1
      }
    }
    var floor = Float.leastNonzeroMagnitude
    if groups >= 2 * k {
      let maxima = scratch.groupMaxima.pointer
      // Blocks of 16 groups, group g of a block being lane g of 16 vectors.
      let lanes = UnsafeRawPointer(row)
      let blocks = groups / width
      for block in 0..<blocks {
        let start = lanes + block * width * width * 4
        var largest = start.loadUnaligned(as: SIMD16<Float>.self)
        for vector in 1..<width {
          let next = (start + vector * width * 4).loadUnaligned(as: SIMD16<Float>.self)
          largest.replace(with: next, where: next .> largest)
        }
        UnsafeMutableRawPointer(maxima + block * width).storeBytes(
          of: largest, as: SIMD16<Float>.self)
      }
      floor = max(floor, gk_kth_largest_positive(maxima, blocks * width, k))
      for group in 0..<blocks * width where maxima[group] >= floor {
        let first = group / width * width * width + group % width
        for latent in stride(from: first, to: first + width * width, by: width) {
          consider(latent..<latent + 1, floor)
        }
      }
      consider(blocks * width * width..<granularity, floor)
    } else {
      floor = max(floor, gk_kth_largest_positive(row, granularity, k))
      consider(0..<granularity, floor)
    }
    var kth: Float = 0
    let kept = gk_keep_largest(
      scratch.values.pointer, scratch.latents, candidates, k, &kth)
    latents.update(from: scratch.latents, count: kept)
    values.update(from: scratch.values.pointer, count: kept)
    return kept
  }
}
