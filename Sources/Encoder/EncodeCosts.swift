internal import CGranuleKernels
internal import Glibc
internal import GranuleTensors
internal import Synchronization

/// Times of the steps of encoding on this machine, measured once for each size of activations. They
/// decide whether screening pays.
struct EncodeCosts: Sendable {
  /// Nanoseconds to screen one latent for one token.
  var screening = 0.0
  /// Nanoseconds to score one latent that survived.
  var rescoring = 0.0
  /// Nanoseconds to score one latent if all latents are scored.
  var scoring = 0.0
  /// Nanoseconds to quantise a token.
  var quantizing = 0.0

  /// The costs for activations of a size, in batches of about `tokens` tokens: many tokens share the
  /// part of the encoder that they load, few wait for its memory.
  static func measured(dModel: Int, cpu: EncoderCPU, tokens: Int) -> EncodeCosts {
    known.withLock { known in
      let key = Key(dModel: dModel, cpu: cpu, isFew: tokens < 8)
      if let costs = known[key] { return costs }
      let costs = measure(dModel: dModel, cpu: cpu, count: key.isFew ? 1 : 96)
      known[key] = costs
      return costs
    }
  }

  private struct Key: Hashable {
    var dModel: Int
    var cpu: EncoderCPU
    var isFew: Bool
  }
  private static let known = Mutex<[Key: EncodeCosts]>([:])

  private static func measure(dModel: Int, cpu: EncoderCPU, count: Int) -> EncodeCosts {
    let rotation = Rotation(dModel: dModel)
    let padded = 16 * rotation.vectors
    // Rows of zeros take as long as other rows. There are more than the caches hold, as in a large
    // dictionary.
    let rowCount = max(64, min(4096, (64 << 20) / (4 * dModel)) / 64 * 64)
    let latents = count == 1 ? rowCount : min(512, rowCount)
    let rows = FloatStorage(count: rowCount * dModel)
    let biases = FloatStorage(count: rowCount)
    let inputs = FloatStorage(count: count * dModel)
    let weights = FloatStorage(count: latents * padded / 4)
    let quantized = FloatStorage(count: count * padded / 4)
    let lists = FloatStorage(count: 128)
    var tokens = [gk_screened_token](repeating: gk_screened_token(), count: count)
    for token in 0..<count {
      tokens[token].threshold = .infinity
      tokens[token].bounds = lists.pointer
      tokens[token].latents = UnsafeMutableRawPointer(lists.pointer).assumingMemoryBound(
        to: UInt32.self)
    }
    var screen = gk_screen(
      weights: UnsafeRawPointer(weights.pointer).assumingMemoryBound(to: UInt8.self),
      scales: biases.pointer, biases: biases.pointer, residual_norms: biases.pointer,
      norms: biases.pointer, d_padded: padded, offset: 128)
    // In a large batch some tokens need the same latent.
    let pairs = (0..<2048).map {
      gk_pair(
        latent: UInt32($0 / min(count, 4) * 2_654_435_761 % rowCount),
        token: UInt32($0 * 37 % count), slot: UInt32($0 % 64))
    }
    let center = FloatStorage(count: dModel)
    let scratch = FloatStorage(count: padded)
    var row = gk_quantized_row()
    // The least of five measurements of the thread's own time, in which other threads do not count.
    func nanoseconds(_ body: () -> Void) -> Double {
      (0..<5).map { _ in
        let start = threadNanoseconds()
        body()
        return threadNanoseconds() - start
      }.min()!
    }
    return tokens.withUnsafeMutableBufferPointer { tokens in
      EncodeCosts(
        screening: nanoseconds {
          for panel in 0..<latents / QuantizedEncoder.panelLatents {
            gk_screen_panel(
              cpu.kernels, &screen, panel,
              UnsafeRawPointer(quantized.pointer).assumingMemoryBound(to: Int8.self),
              tokens.baseAddress, count)
          }
        } / Double(latents * count),
        rescoring: nanoseconds {
          gk_rescore(
            cpu.kernels, rows.pointer, biases.pointer, inputs.pointer, dModel, pairs, pairs.count,
            lists.pointer)
        } / Double(pairs.count),
        scoring: nanoseconds {
          gk_score_panel(
            cpu.kernels, rows.pointer, biases.pointer, nil, 0, latents, inputs.pointer, dModel,
            tokens.baseAddress, count)
        } / Double(latents * count),
        quantizing: nanoseconds {
          rotation.withParameters { rotation in
            for token in 0..<count {
              gk_quantize(
                cpu.kernels, inputs.pointer + token * dModel, center.pointer, center.pointer,
                dModel, rotation, 127, scratch.pointer,
                UnsafeMutableRawPointer(quantized.pointer).assumingMemoryBound(to: Int8.self)
                  + token * padded, &row)
            }
          }
        } / Double(count))
    }
  }

  private static func threadNanoseconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e9 + Double(time.tv_nsec)
  }
}
