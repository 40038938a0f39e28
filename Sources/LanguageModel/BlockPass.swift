internal import CGranuleKernels
internal import GranuleTensors
internal import GranuleThreads

/// One batch's way through blocks, with the memory that it needs.
///
/// Every linear layer is one product over a block of rows of all sequences together; blocks of rows
/// are dealt out to the threads, and what a block of rows needs stays in its thread's cache.
struct BlockPass {
  /// What going backwards through a block needs of going forwards.
  struct Tape {
    /// The residual stream before the block, and between its attention and its MLP: [rows, d_model].
    let input, middle: FloatStorage
    /// Before SiLU, and what it is multiplied with: [rows, feedForward].
    let gate, up: FloatStorage
    let attention: Attention.Rows

    init(rows: Int, configuration: LlamaConfiguration) {
      input = FloatStorage(count: rows * configuration.dModel)
      middle = FloatStorage(count: rows * configuration.dModel)
      gate = FloatStorage(count: rows * configuration.feedForward)
      up = FloatStorage(count: rows * configuration.feedForward)
      attention = Attention.Rows(rows: rows, configuration: configuration)
    }

    /// Bytes a row.
    static func rowBytes(_ configuration: LlamaConfiguration) -> Int {
      let head = configuration.headDimension
      let values =
        2 * configuration.dModel + 2 * configuration.feedForward + 2 * configuration.heads * head
        + 2 * configuration.keyValueHeads * head + configuration.heads
      return values * MemoryLayout<Float>.size
    }
  }

  /// A thread's scratch memory for a block of rows.
  private struct Scratch {
    let narrow: FloatStorage  // [blockRows, d_model]
    let gate, up: FloatStorage  // [blockRows, feedForward]
    let wide: FloatStorage  // [blockRows, feedForward]
  }

  /// Rows of a matrix product: enough for it to run at its full rate.
  private static let blockRowsMax = 256

  private let weights: LlamaWeights
  private let batch: TokenBatch
  private let parallel: Parallel
  private let rotary: RotaryTable
  private let attention: Attention
  private let rows: Attention.Rows
  private let scratch: [Scratch]
  private let blockRows: Int
  private let gradients: Attention.Gradients
  private let attendedGradient: FloatStorage  // [rows, heads · headDimension]

  private var shape: LlamaConfiguration { weights.configuration }
  private var queries: Int { shape.heads * shape.headDimension }
  private var keys: Int { shape.keyValueHeads * shape.headDimension }

  /// - Parameter backwards: whether `backward` will be called, and each `forward` given a tape.
  init(
    _ weights: LlamaWeights, batch: TokenBatch, _ parallel: Parallel, backwards: Bool = false
  ) {
    let shape = weights.configuration
    self.weights = weights
    self.batch = batch
    self.parallel = parallel
    rotary = RotaryTable(
      positions: batch.longest, headDimension: shape.headDimension, theta: shape.ropeTheta)
    attention = Attention(shape, batch: batch, parallel, gradients: backwards)
    rows = Attention.Rows(rows: backwards ? 0 : batch.rows, configuration: shape)
    let blockRows = Self.blockRows(batch.rows, parallel)
    scratch = (0..<parallel.threads).map { _ in
      Scratch(
        narrow: FloatStorage(count: blockRows * shape.dModel),
        gate: FloatStorage(count: backwards ? 0 : blockRows * shape.feedForward),
        up: FloatStorage(count: backwards ? 0 : blockRows * shape.feedForward),
        wide: FloatStorage(count: blockRows * shape.feedForward))
    }
    self.blockRows = blockRows
    let (queries, keys) = (
      shape.heads * shape.headDimension, shape.keyValueHeads * shape.headDimension
    )
    let gradientRows = backwards ? batch.rows : 0
    gradients = Attention.Gradients(
      query: FloatStorage(count: gradientRows * queries),
      key: FloatStorage(count: gradientRows * keys),
      value: FloatStorage(count: gradientRows * keys))
    attendedGradient = FloatStorage(count: gradientRows * queries)
  }

  /// Number of rows, of `rows`, that one thread takes at a time.
  static func blockRows(_ rows: Int, _ parallel: Parallel) -> Int {
    let threads = parallel.threads
    return max(1, min(blockRowsMax, (rows + threads - 1) / threads))
  }

  // MARK: Forwards

  /// hidden := block(hidden), [rows, d_model].
  ///
  /// - Parameters:
  ///   - tape: receives what `backward` needs.
  ///   - attentionOutput, mlpOutput: receive what the block adds to the stream, [rows, d_model].
  func forward(
    _ hidden: FloatStorage, block number: Int, tape: Tape? = nil,
    attentionOutput: FloatStorage? = nil, mlpOutput: FloatStorage? = nil
  ) {
    let block = weights.blocks[number]
    let rows = tape?.attention ?? self.rows
    let d = shape.dModel
    tape?.input.pointer.update(from: hidden.pointer, count: hidden.count)
    parallel.forBlocks(batch.rows, size: blockRows) { thread, range in
      let (first, count) = (range.lowerBound, range.count)
      let normed = scratch[thread].narrow.pointer
      normalize(hidden.pointer + first * d, block.attentionNorm, rows: count, into: normed)
      let outputs = [
        (block.query, queries, rows.query), (block.key, keys, rows.key),
        (block.value, keys, rows.value),
      ]
      for (weight, width, output) in outputs {
        MatrixProduct.linear(
          normed, weight.pointer, rows: count, inputs: d, outputs: width,
          into: output.pointer + first * width)
      }
      rotate(rows.query, rows.key, range, direction: 1)
    }
    attention.forward(rows)
    parallel.forBlocks(batch.rows, size: blockRows) { thread, range in
      let (first, count) = (range.lowerBound, range.count)
      let stream = hidden.pointer + first * d
      add(
        rows.output.pointer + first * queries, block.attentionOutput, inputs: queries, rows: range,
        to: stream, capturing: attentionOutput)
      tape?.middle.pointer.advanced(by: first * d).update(from: stream, count: count * d)
      let own = scratch[thread]
      let gate = tape.map { $0.gate.pointer + first * shape.feedForward } ?? own.gate.pointer
      let up = tape.map { $0.up.pointer + first * shape.feedForward } ?? own.up.pointer
      normalize(stream, block.feedForwardNorm, rows: count, into: own.narrow.pointer)
      MatrixProduct.linear(
        own.narrow.pointer, block.gate.pointer, rows: count, inputs: d,
        outputs: shape.feedForward, into: gate)
      MatrixProduct.linear(
        own.narrow.pointer, block.up.pointer, rows: count, inputs: d, outputs: shape.feedForward,
        into: up)
      gk_swiglu(gate, up, own.wide.pointer, count * shape.feedForward)
      add(
        own.wide.pointer, block.down, inputs: shape.feedForward, rows: range, to: stream,
        capturing: mlpOutput)
    }
  }

  private func normalize(
    _ input: UnsafePointer<Float>, _ weight: FloatStorage, rows: Int,
    into output: UnsafeMutablePointer<Float>
  ) {
    for row in 0..<rows {
      gk_rms_norm(
        input + row * shape.dModel, weight.pointer, shape.rmsEpsilon, shape.dModel,
        output + row * shape.dModel)
    }
  }

  private func rotate(
    _ query: FloatStorage, _ key: FloatStorage, _ range: Range<Int>, direction: Float
  ) {
    for row in range {
      let first = batch.positions[row] * shape.headDimension
      let (cosines, sines) = (rotary.cosines.pointer + first, rotary.sines.pointer + first)
      gk_rotate_pairs(
        query.pointer + row * queries, shape.heads, shape.headDimension, cosines, sines, direction)
      gk_rotate_pairs(
        key.pointer + row * keys, shape.keyValueHeads, shape.headDimension, cosines, sines,
        direction)
    }
  }

  /// stream := stream + input Wᵀ, the product also by itself where it is captured.
  private func add(
    _ input: UnsafePointer<Float>, _ weight: FloatStorage, inputs: Int, rows: Range<Int>,
    to stream: UnsafeMutablePointer<Float>, capturing captured: FloatStorage?
  ) {
    let d = shape.dModel
    guard let captured else {
      MatrixProduct.linear(
        input, weight.pointer, rows: rows.count, inputs: inputs, outputs: d, into: stream,
        accumulating: true)
      return
    }
    let product = captured.pointer + rows.lowerBound * d
    MatrixProduct.linear(
      input, weight.pointer, rows: rows.count, inputs: inputs, outputs: d, into: product)
    for i in 0..<rows.count * d { stream[i] += product[i] }
  }

  // MARK: Backwards

  /// gradient := gradient with respect to the block's input, from that of its output; [rows,
  /// d_model]. What `tape` holds of the MLP is used up.
  func backward(_ gradient: FloatStorage, block number: Int, tape: Tape) {
    let block = weights.blocks[number]
    let (d, feedForward) = (shape.dModel, shape.feedForward)
    parallel.forBlocks(batch.rows, size: blockRows) { thread, range in
      let (first, count) = (range.lowerBound, range.count)
      let own = scratch[thread]
      let (gate, up) = (
        tape.gate.pointer + first * feedForward, tape.up.pointer + first * feedForward
      )
      MatrixProduct.linearGradient(
        gradient.pointer + first * d, block.down.pointer, rows: count, inputs: feedForward,
        outputs: d, into: own.wide.pointer)
      gk_swiglu_gradient(gate, up, own.wide.pointer, count * feedForward)
      MatrixProduct.linearGradient(
        gate, block.gate.pointer, rows: count, inputs: d, outputs: feedForward,
        into: own.narrow.pointer)
      MatrixProduct.linearGradient(
        up, block.up.pointer, rows: count, inputs: d, outputs: feedForward,
        into: own.narrow.pointer,
        accumulating: true)
      addNormGradient(
        own.narrow.pointer, input: tape.middle, block.feedForwardNorm, range, to: gradient)
      MatrixProduct.linearGradient(
        gradient.pointer + first * d, block.attentionOutput.pointer, rows: count, inputs: queries,
        outputs: d, into: attendedGradient.pointer + first * queries)
    }
    attention.backward(tape.attention, outputGradient: attendedGradient, into: gradients)
    parallel.forBlocks(batch.rows, size: blockRows) { thread, range in
      let own = scratch[thread]
      rotate(gradients.query, gradients.key, range, direction: -1)
      let inputs = [
        (block.query, queries, gradients.query), (block.key, keys, gradients.key),
        (block.value, keys, gradients.value),
      ]
      for (number, (weight, width, output)) in inputs.enumerated() {
        MatrixProduct.linearGradient(
          output.pointer + range.lowerBound * width, weight.pointer, rows: range.count, inputs: d,
          outputs: width, into: own.narrow.pointer, accumulating: number > 0)
      }
      addNormGradient(
        own.narrow.pointer, input: tape.input, block.attentionNorm, range, to: gradient)
    }
  }

  private func addNormGradient(
    _ normedGradient: UnsafePointer<Float>, input: FloatStorage, _ weight: FloatStorage,
    _ range: Range<Int>, to gradient: FloatStorage
  ) {
    for (offset, row) in range.enumerated() {
      gk_rms_norm_gradient(
        input.pointer + row * shape.dModel, weight.pointer, shape.rmsEpsilon, shape.dModel,
        normedGradient + offset * shape.dModel, gradient.pointer + row * shape.dModel)
    }
  }
}
