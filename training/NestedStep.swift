internal import CKernels
package import SparseAutoencoder
package import Tensors

/// The loss of a Matryoshka TopK dictionary on a batch, and its gradient.
///
/// Each granularity's Σ‖x − x̂_m‖² (Progressive Coding for SAEs, eq. 8) is divided by the batch's
/// variance Σ‖x − x̄‖² and averaged over the granularities; added to it is the auxiliary loss that
/// revives dead latents (Gao et al., Scaling and evaluating sparse autoencoders, appendix A.2).
/// Sparsity acts on the full code only, and x̂_m decodes a prefix of it. `ReferenceStep` is the
/// same in plain float64.
///
/// All granularities cost one decode: the partial sums along a token's active latents are its
/// nested reconstructions; on the way back, a latent receives the sum of the residuals of all
/// prefixes that contain it. Results do not depend on the number of threads.
package final class NestedStep {
  /// What a batch's loss is made of.
  package struct Losses {
    /// Σ‖x − x̂_m‖² / Σ‖x − x̄‖² at each granularity.
    package var fvu: [Double]
    /// Σ‖e − ê‖² / Σ‖e − ē‖², e the residual at full size and ê its reconstruction by dead latents;
    /// 0 where none is dead.
    package var auxiliary: Double
    /// mean(fvu) + auxiliaryCoefficient · auxiliary
    package var total: Double
    /// Mean number of active latents a token.
    package var l0: Double
  }

  /// The gradient of the last batch's loss.
  package let gradient: DictionaryWeights
  /// Which latents were active in the last batch.
  package private(set) var wasActive: [Bool]

  private let weights: DictionaryWeights
  private let granularities: [UInt32]
  private let k: Int
  private let auxiliaryCoefficient: Double
  /// The first granularity that contains each latent.
  private let blockOfLatent: [UInt32]
  /// Of the batches, [d_model]: for the encoder's speed only.
  private let activationDeviation: [Float]?
  private let screeningHistory = ScreeningHistory()
  private let workspaces = (0..<Parallel.threads).map { _ in EncodeWorkspace() }
  /// x − b_dec of each token: [tokens, d_model]
  private var centred = FloatStorage(count: 0)
  /// What residuals send back to latents: [tokens, granularities + 1, d_model], the last row of a
  /// token for the auxiliary loss.
  private var returned = FloatStorage(count: 0)

  /// A step for `weights`, which it reads at every call.
  package init(
    weights: DictionaryWeights, granularities: [Int], k: Int, auxiliaryCoefficient: Double,
    activationDeviation: [Float]? = nil
  ) {
    self.weights = weights
    self.activationDeviation = activationDeviation
    self.granularities = granularities.map { UInt32($0) }
    self.k = k
    self.auxiliaryCoefficient = auxiliaryCoefficient
    gradient = DictionaryWeights(latents: weights.latents, dModel: weights.dModel)
    wasActive = [Bool](repeating: false, count: weights.latents)
    var blocks: [UInt32] = []
    for (block, granularity) in granularities.enumerated() {
      blocks += [UInt32](repeating: UInt32(block), count: granularity - blocks.count)
    }
    blockOfLatent = blocks
  }

  private var dModel: Int { weights.dModel }
  private var rowsPerToken: Int { granularities.count + 1 }

  /// Computes the losses of `batch`, and leaves their gradient in `gradient`.
  ///
  /// - Parameters:
  ///   - batch: [tokens, d_model] float32.
  ///   - dead: the latents that the auxiliary loss may use, ascending.
  /// - Throws: `EncodingError` for the first token that cannot be encoded.
  package func run(batch: FloatStorage, dead: [Int]) throws(EncodingError) -> Losses {
    let tokens = batch.count / dModel
    reserve(tokens: tokens)
    let variance = Self.variance(of: batch.pointer, rows: tokens, columns: dModel)
    // ∂(Σ‖x − x̂_m‖² / variance / M) / ∂x̂_m = scale · (x̂_m − x)
    let scale = 2 / (Double(granularities.count) * variance)

    var (parts, errors) = try encodeAndDecode(batch, tokens: tokens, scale: Float(scale))
    var losses = Losses(fvu: [], auxiliary: 0, total: 0, l0: 0)
    for granularity in 0..<granularities.count {
      var sum = 0.0
      for token in 0..<tokens { sum += Double(errors[token * granularities.count + granularity]) }
      losses.fvu.append(sum / variance)
    }
    losses.l0 =
      Double(parts.reduce(0) { $0 + $1.codes.indices.count }) / Double(max(tokens, 1))
    markActive(parts)
    if !dead.isEmpty, auxiliaryCoefficient > 0 {
      let (auxiliaryParts, loss) = try reviveDead(batch, tokens: tokens, dead: dead, scale: scale)
      losses.auxiliary = loss
      parts += auxiliaryParts
    }
    losses.total =
      losses.fvu.reduce(0, +) / Double(granularities.count)
      + auxiliaryCoefficient * losses.auxiliary
    accumulate(entriesByLatent(parts), tokens: tokens)
    return losses
  }

  private func reserve(tokens: Int) {
    if centred.count < tokens * dModel {
      centred = FloatStorage(count: tokens * dModel)
      returned = FloatStorage(count: tokens * rowsPerToken * dModel)
    }
  }

  // MARK: Forwards

  /// The codes of consecutive tokens, with what each active latent's value receives.
  private struct Part {
    var firstToken = 0
    var codes = SparseCodes()
    /// ∂loss/∂z of each active latent, which is ∂loss/∂h too: an active latent's ReLU is open.
    var gradients: [Float] = []
    /// Row of `returned` that a latent receives, beyond the token's first.
    var rowOfLatent: [UInt32] = []
    /// Index in the dictionary of each latent of `codes`, nil where it is the same.
    var latentIndices: [Int]?
  }

  /// Encodes, decodes at every granularity, and turns residuals into what they send back.
  ///
  /// - Returns: the codes in order of tokens, and ‖x − x̂_m‖², [tokens, granularities].
  private func encodeAndDecode(
    _ batch: FloatStorage, tokens: Int, scale: Float
  ) throws(EncodingError) -> (parts: [Part], squaredErrors: [Float]) {
    var dictionaryParts = weights.parts(.topk(k: k))
    dictionaryParts.activationDeviation = activationDeviation
    dictionaryParts.screeningHistory = screeningHistory
    let dictionary = SparseAutoencoder(dictionaryParts)
    dictionary.prepareEncoder()
    let prefixes = granularities.count
    let scales = [Float](repeating: scale, count: prefixes)
    var squaredErrors = [Float](repeating: 0, count: tokens * prefixes)
    let parts = try squaredErrors.withUnsafeMutableBufferPointer {
      (squaredErrors) throws(EncodingError) in
      let squaredErrors = squaredErrors
      return try forParts(tokens) { (workspace, range) throws(EncodingError) in
        var part = Part(firstToken: range.lowerBound, rowOfLatent: blockOfLatent)
        part.codes = try dictionary.encode(
          UnsafeBufferPointer(
            start: batch.pointer + range.lowerBound * dModel, count: range.count * dModel),
          tokens: range.count, granularity: dictionary.latents, k: k, workspace: workspace)
        part.gradients = [Float](repeating: 0, count: part.codes.indices.count)
        let sum = FloatStorage(count: dModel)
        withEachToken(&part) { token, indices, values, gradients in
          let input = batch.pointer + token * dModel
          let rows = returned.pointer + token * rowsPerToken * dModel
          for i in 0..<dModel {
            centred.pointer[token * dModel + i] = input[i] - weights.decoderBias.pointer[i]
          }
          granule_nested_decode(
            weights.decoder.pointer, weights.decoderBias.pointer, dModel, indices.baseAddress,
            values.baseAddress, indices.count, granularities, prefixes, input, 1, 0, sum.pointer,
            squaredErrors.baseAddress! + token * prefixes, rows, dModel)
          granule_suffix_residuals(rows, prefixes, dModel, input, scales)
          for position in 0..<indices.count {
            let latent = Int(indices[position])
            gradients[position] = granule_dot(
              weights.decoder.pointer + latent * dModel, rows + Int(blockOfLatent[latent]) * dModel,
              dModel)
          }
        }
        return part
      }
    }
    return (parts, squaredErrors)
  }

  /// Reconstructs the full size's residual, held constant, by the best of the dead latents, without
  /// b_dec; the gradient reaches their encoder and decoder.
  private func reviveDead(
    _ batch: FloatStorage, tokens: Int, dead: [Int], scale: Double
  ) throws(EncodingError) -> (parts: [Part], loss: Double) {
    let last = granularities.count - 1
    let residuals = FloatStorage(count: tokens * dModel)
    Parallel.forRanges(tokens) { _, range in
      for token in range {
        let row = returned.pointer + (token * rowsPerToken + last) * dModel
        for i in 0..<dModel {
          residuals.pointer[token * dModel + i] = Float(-Double(row[i]) / scale)
        }
      }
    }
    let variance = Self.variance(of: residuals.pointer, rows: tokens, columns: dModel)
    let auxiliaryScale = Float(2 * auxiliaryCoefficient / variance)

    let deadWeights = DictionaryWeights(latents: dead.count, dModel: dModel)
    for (row, latent) in dead.enumerated() {
      (deadWeights.encoder.pointer + row * dModel)
        .update(from: weights.encoder.pointer + latent * dModel, count: dModel)
      (deadWeights.decoder.pointer + row * dModel)
        .update(from: weights.decoder.pointer + latent * dModel, count: dModel)
      deadWeights.encoderBias.pointer[row] = weights.encoderBias.pointer[latent]
    }
    deadWeights.decoderBias.pointer.update(from: weights.decoderBias.pointer, count: dModel)
    let auxiliaryK = max(1, min(dModel / 2, dead.count))
    let dictionary = SparseAutoencoder(deadWeights.parts(.topk(k: auxiliaryK)))
    let noBias = FloatStorage(count: dModel)
    let auxiliaryRow = UInt32(granularities.count)
    var squaredErrors = [Float](repeating: 0, count: tokens)
    let parts = try squaredErrors.withUnsafeMutableBufferPointer {
      (squaredErrors) throws(EncodingError) in
      let squaredErrors = squaredErrors
      return try forParts(tokens) { (workspace, range) throws(EncodingError) in
        var part = Part(
          firstToken: range.lowerBound,
          rowOfLatent: [UInt32](repeating: auxiliaryRow, count: dead.count), latentIndices: dead)
        part.codes = try dictionary.encode(
          UnsafeBufferPointer(
            start: batch.pointer + range.lowerBound * dModel, count: range.count * dModel),
          tokens: range.count, granularity: dead.count, k: auxiliaryK, workspace: workspace)
        part.gradients = [Float](repeating: 0, count: part.codes.indices.count)
        let sum = FloatStorage(count: dModel)
        withEachToken(&part) { token, indices, values, gradients in
          let row = returned.pointer + (token * rowsPerToken + Int(auxiliaryRow)) * dModel
          var granularity = UInt32(dead.count)
          granule_nested_decode(
            deadWeights.decoder.pointer, noBias.pointer, dModel, indices.baseAddress,
            values.baseAddress, indices.count, &granularity, 1,
            residuals.pointer + token * dModel, 1, 0, sum.pointer,
            squaredErrors.baseAddress! + token, row, dModel)
          var scale = auxiliaryScale
          granule_suffix_residuals(row, 1, dModel, residuals.pointer + token * dModel, &scale)
          for position in 0..<indices.count {
            gradients[position] = granule_dot(
              deadWeights.decoder.pointer + Int(indices[position]) * dModel, row, dModel)
          }
        }
        return part
      }
    }
    return (parts, squaredErrors.reduce(0.0) { $0 + Double($1) } / variance)
  }

  /// Splits the tokens over the threads; parts come back in order of tokens.
  private func forParts(
    _ tokens: Int,
    _ body: (EncodeWorkspace, Range<Int>) throws(EncodingError) -> Part
  ) throws(EncodingError) -> [Part] {
    var results = [Result<Part, EncodingError>?](repeating: nil, count: Parallel.threads)
    results.withUnsafeMutableBufferPointer { results in
      let results = results
      Parallel.forRanges(tokens) { thread, range in
        do throws(EncodingError) {
          results[thread] = .success(try body(workspaces[thread], range))
        } catch {
          results[thread] = .failure(error.shifted(by: range.lowerBound))
        }
      }
    }
    var parts: [Part] = []
    for case .some(let result) in results { parts.append(try result.get()) }
    return parts
  }

  private func withEachToken(
    _ part: inout Part,
    _ body: (
      _ token: Int, _ indices: UnsafeBufferPointer<UInt32>, _ values: UnsafeBufferPointer<Float>,
      _ gradients: UnsafeMutableBufferPointer<Float>
    ) -> Void
  ) {
    let (codes, firstToken) = (part.codes, part.firstToken)
    codes.indices.withUnsafeBufferPointer { indices in
      codes.values.withUnsafeBufferPointer { values in
        part.gradients.withUnsafeMutableBufferPointer { gradients in
          for row in 0..<codes.tokens {
            let range = Int(codes.rowOffsets[row])..<Int(codes.rowOffsets[row + 1])
            body(
              firstToken + row, UnsafeBufferPointer(rebasing: indices[range]),
              UnsafeBufferPointer(rebasing: values[range]),
              UnsafeMutableBufferPointer(rebasing: gradients[range]))
          }
        }
      }
    }
  }

  private func markActive(_ parts: [Part]) {
    for latent in 0..<wasActive.count { wasActive[latent] = false }
    for part in parts {
      for index in part.codes.indices { wasActive[Int(index)] = true }
    }
  }

  // MARK: Backwards

  /// Active latents of the batch in order of latents, each latent's in order of tokens.
  private struct Entries {
    /// Where each latent's entries begin: [latents + 1]
    var offsets: [Int]
    /// Row of `centred`.
    var tokens: [UInt32]
    /// Row of `returned`.
    var returnedRows: [UInt32]
    /// z
    var values: [Float]
    /// ∂loss/∂h
    var gradients: [Float]
  }

  private func entriesByLatent(_ parts: [Part]) -> Entries {
    var offsets = [Int](repeating: 0, count: weights.latents + 1)
    for part in parts {
      for index in part.codes.indices {
        offsets[(part.latentIndices?[Int(index)] ?? Int(index)) + 1] += 1
      }
    }
    for latent in 0..<weights.latents { offsets[latent + 1] += offsets[latent] }
    let count = offsets[weights.latents]
    var next = offsets
    var entries = Entries(
      offsets: offsets, tokens: [UInt32](repeating: 0, count: count),
      returnedRows: [UInt32](repeating: 0, count: count),
      values: [Float](repeating: 0, count: count), gradients: [Float](repeating: 0, count: count))
    for part in parts {
      for row in 0..<part.codes.tokens {
        let token = part.firstToken + row
        for position in Int(part.codes.rowOffsets[row])..<Int(part.codes.rowOffsets[row + 1]) {
          let index = Int(part.codes.indices[position])
          let latent = part.latentIndices?[index] ?? index
          let slot = next[latent]
          next[latent] += 1
          entries.tokens[slot] = UInt32(token)
          entries.returnedRows[slot] = UInt32(token * rowsPerToken) + part.rowOfLatent[index]
          entries.values[slot] = part.codes.values[position]
          entries.gradients[slot] = part.gradients[position]
        }
      }
    }
    return entries
  }

  private func accumulate(_ entries: Entries, tokens: Int) {
    entries.tokens.withUnsafeBufferPointer { tokenRows in
      entries.returnedRows.withUnsafeBufferPointer { returnedRows in
        entries.values.withUnsafeBufferPointer { values in
          entries.gradients.withUnsafeBufferPointer { gradients in
            // Blocks, not one range a thread: early latents are active far more often.
            Parallel.forBlocks(weights.latents, size: 64) { _, latents in
              for latent in latents {
                let (start, end) = (entries.offsets[latent], entries.offsets[latent + 1])
                let (row, count) = (latent * dModel, end - start)
                granule_weighted_rows_sum(
                  centred.pointer, dModel, tokenRows.baseAddress.map { $0 + start },
                  gradients.baseAddress.map { $0 + start }, count, gradient.encoder.pointer + row)
                granule_weighted_rows_sum(
                  returned.pointer, dModel, returnedRows.baseAddress.map { $0 + start },
                  values.baseAddress.map { $0 + start }, count, gradient.decoder.pointer + row)
                var sum: Float = 0
                for position in start..<end { sum += gradients[position] }
                gradient.encoderBias.pointer[latent] = sum
              }
            }
          }
        }
      }
    }
    // b_dec is in every reconstruction, and with the other sign in every encoder input.
    let firstRows = (0..<tokens).map { UInt32($0 * rowsPerToken) }
    let ones = [Float](repeating: 1, count: tokens)
    granule_weighted_rows_sum(
      returned.pointer, dModel, firstRows, ones, tokens, gradient.decoderBias.pointer)
    let latentRows = (0..<weights.latents).map { UInt32($0) }
    let encoderPath = FloatStorage(count: dModel)
    granule_weighted_rows_sum(
      weights.encoder.pointer, dModel, latentRows, gradient.encoderBias.pointer, weights.latents,
      encoderPath.pointer)
    for i in 0..<dModel { gradient.decoderBias.pointer[i] -= encoderPath.pointer[i] }
  }

  /// Σ‖x − x̄‖² over rows, x̄ the mean row; never 0, since losses are divided by it.
  static func variance(of input: UnsafePointer<Float>, rows: Int, columns: Int) -> Double {
    var sums = [Double](repeating: 0, count: columns)
    var squares = [Double](repeating: 0, count: columns)
    // Shifted by the first row, so that a large mean costs no digits.
    for row in 0..<rows {
      for i in 0..<columns {
        let value = Double(input[row * columns + i] - input[i])
        sums[i] += value
        squares[i] += value * value
      }
    }
    var total = 0.0
    for i in 0..<columns { total += squares[i] - sums[i] * sums[i] / Double(max(rows, 1)) }
    return max(total, Double(Float.leastNormalMagnitude))
  }
}
