internal import CGranuleKernels
internal import Glibc
internal import GranuleBLAS
internal import GranuleTensors
internal import GranuleThreads

/// Grouped-query causal attention over a batch, forwards and backwards.
///
/// A task is one key/value head of one sequence with the query heads that share it. Its scores exist
/// for one block of queries at a time, [group · block, keys up to the block's last], so that they stay
/// in cache and memory grows with the sequence, not with its square.
struct Attention {
  /// What one batch's attention works on; one row a token.
  struct Rows {
    /// Rotated queries: [rows, heads · headDimension].
    let query: FloatStorage
    /// Rotated keys: [rows, keyValueHeads · headDimension].
    let key: FloatStorage
    /// [rows, keyValueHeads · headDimension]
    let value: FloatStorage
    /// What attention makes of them: [rows, heads · headDimension].
    let output: FloatStorage
    /// Logarithm of each softmax's denominator: [rows, heads].
    let logSumExp: FloatStorage

    init(rows: Int, configuration: LlamaConfiguration) {
      let queries = configuration.heads * configuration.headDimension
      let keys = configuration.keyValueHeads * configuration.headDimension
      query = FloatStorage(count: rows * queries)
      key = FloatStorage(count: rows * keys)
      value = FloatStorage(count: rows * keys)
      output = FloatStorage(count: rows * queries)
      logSumExp = FloatStorage(count: rows * configuration.heads)
    }
  }

  /// A thread's scratch memory; the last three only where gradients are taken.
  private struct Scratch {
    let scores: FloatStorage  // [group · block, longest]
    let query: FloatStorage  // [group · block, headDimension], scaled
    let output: FloatStorage  // [group · block, headDimension]
    let scoreGradient: FloatStorage  // [group · block, longest]
    let queryGradient: FloatStorage  // [group · block, headDimension]
  }

  /// Queries a block.
  static let blockQueries = 64

  private let configuration: LlamaConfiguration
  private let batch: TokenBatch
  private let parallel: Parallel
  private let scratch: [Scratch]

  private var group: Int { configuration.heads / configuration.keyValueHeads }
  private var headDimension: Int { configuration.headDimension }
  private var queryStride: Int { configuration.heads * headDimension }
  private var keyStride: Int { configuration.keyValueHeads * headDimension }
  private var scale: Float { 1 / Float(headDimension).squareRoot() }

  init(
    _ configuration: LlamaConfiguration, batch: TokenBatch, _ parallel: Parallel,
    gradients: Bool = false
  ) {
    self.configuration = configuration
    self.batch = batch
    self.parallel = parallel
    let longest = batch.longest
    let stacked =
      configuration.heads / configuration.keyValueHeads * min(Self.blockQueries, longest)
    let head = stacked * configuration.headDimension
    scratch = (0..<parallel.threads).map { _ in
      Scratch(
        scores: FloatStorage(count: stacked * longest), query: FloatStorage(count: head),
        output: FloatStorage(count: head),
        scoreGradient: FloatStorage(count: gradients ? stacked * longest : 0),
        queryGradient: FloatStorage(count: gradients ? head : 0))
    }
  }

  // MARK: Forwards

  /// Fills `rows.output` and `rows.logSumExp` from the rest.
  func forward(_ rows: Rows) {
    let blocks = queryBlocks
    parallel.forBlocks(blocks.count * configuration.keyValueHeads, size: 1) { thread, task in
      let (number, head) = task.lowerBound.quotientAndRemainder(
        dividingBy: configuration.keyValueHeads)
      forward(rows, blocks[number], keyValueHead: head, scratch[thread])
    }
  }

  /// Consecutive queries of one sequence.
  private struct QueryBlock {
    /// The sequence's first row.
    var start: Int
    /// Positions of the queries in the sequence.
    var positions: Range<Int>
  }

  /// Long ones first, so that the threads end together.
  private var queryBlocks: [QueryBlock] {
    zip(batch.starts, batch.starts.dropFirst()).flatMap { start, end in
      blocks(start: start, length: end - start)
    }.sorted { $0.positions.upperBound > $1.positions.upperBound }
  }

  private func blocks(start: Int, length: Int) -> [QueryBlock] {
    stride(from: 0, to: length, by: Self.blockQueries).map {
      QueryBlock(start: start, positions: $0..<min($0 + Self.blockQueries, length))
    }
  }

  private func forward(
    _ rows: Rows, _ block: QueryBlock, keyValueHead: Int, _ scratch: Scratch
  ) {
    let (stacked, keys) = (group * block.positions.count, block.positions.upperBound)
    let keyStart = block.start * keyStride + keyValueHead * headDimension
    score(rows, block, keyValueHead: keyValueHead, scratch)
    eachQuery(block, keyValueHead: keyValueHead) { row, head, position, stackedRow in
      let scores = scratch.scores.pointer + stackedRow * keys
      let maximum = gk_maximum(scores, position + 1)
      let sum = gk_exponentials(scores, position + 1, maximum, 1)
      (scores + position + 1).update(repeating: 0, count: keys - position - 1)
      rows.logSumExp.pointer[row * configuration.heads + head] = maximum + Float(log(sum))
      // The output is divided by it below: shorter than the scores.
      scratch.query.pointer[stackedRow * headDimension] = Float(1 / sum)
    }
    BLAS.multiply(
      .init(scratch.scores.pointer, stride: keys),
      .init(rows.value.pointer + keyStart, stride: keyStride), rows: stacked,
      columns: headDimension, inner: keys, into: scratch.output.pointer, stride: headDimension)
    eachQuery(block, keyValueHead: keyValueHead) { row, head, _, stackedRow in
      let output = rows.output.pointer + row * queryStride + head * headDimension
      let sums = scratch.output.pointer + stackedRow * headDimension
      let inverse = scratch.query.pointer[stackedRow * headDimension]
      for i in 0..<headDimension { output[i] = sums[i] * inverse }
    }
  }

  /// Scaled scores of a block's queries with every key up to its last.
  private func score(
    _ rows: Rows, _ block: QueryBlock, keyValueHead: Int, _ scratch: Scratch
  ) {
    let (stacked, keys) = (group * block.positions.count, block.positions.upperBound)
    let keyStart = block.start * keyStride + keyValueHead * headDimension
    eachQuery(block, keyValueHead: keyValueHead) { row, head, _, stackedRow in
      let query = rows.query.pointer + row * queryStride + head * headDimension
      let scaled = scratch.query.pointer + stackedRow * headDimension
      for i in 0..<headDimension { scaled[i] = query[i] * scale }
    }
    BLAS.multiply(
      .init(scratch.query.pointer, stride: headDimension),
      .init(rows.key.pointer + keyStart, stride: keyStride, transposed: true), rows: stacked,
      columns: keys, inner: headDimension, into: scratch.scores.pointer, stride: keys)
  }

  private func eachQuery(
    _ block: QueryBlock, keyValueHead: Int,
    _ body: (_ row: Int, _ head: Int, _ position: Int, _ stackedRow: Int) -> Void
  ) {
    for member in 0..<group {
      for (offset, position) in block.positions.enumerated() {
        body(
          block.start + position, keyValueHead * group + member, position,
          member * block.positions.count + offset)
      }
    }
  }

  // MARK: Backwards

  /// Gradients of queries, keys and values from that of the output, which are shaped as they are.
  struct Gradients {
    let query, key, value: FloatStorage
  }

  /// Fills `gradients`.
  ///
  /// - Parameter outputGradient: [rows, heads · headDimension]
  func backward(_ rows: Rows, outputGradient: FloatStorage, into gradients: Gradients) {
    parallel.forBlocks(batch.sequences * configuration.keyValueHeads, size: 1) { thread, task in
      let (sequence, head) = task.lowerBound.quotientAndRemainder(
        dividingBy: configuration.keyValueHeads)
      let (start, end) = (batch.starts[sequence], batch.starts[sequence + 1])
      for row in start..<end {
        let first = row * keyStride + head * headDimension
        (gradients.key.pointer + first).update(repeating: 0, count: headDimension)
        (gradients.value.pointer + first).update(repeating: 0, count: headDimension)
      }
      for block in blocks(start: start, length: end - start) {
        backward(
          rows, block, keyValueHead: head, outputGradient: outputGradient, into: gradients,
          scratch[thread])
      }
    }
  }

  private func backward(
    _ rows: Rows, _ block: QueryBlock, keyValueHead: Int, outputGradient: FloatStorage,
    into gradients: Gradients, _ scratch: Scratch
  ) {
    typealias Factor = BLAS.Factor<Float>
    let (stacked, keys) = (group * block.positions.count, block.positions.upperBound)
    let keyStart = block.start * keyStride + keyValueHead * headDimension
    let probabilities = scratch.scores.pointer
    score(rows, block, keyValueHead: keyValueHead, scratch)
    eachQuery(block, keyValueHead: keyValueHead) { row, head, position, stackedRow in
      let scores = probabilities + stackedRow * keys
      let logSumExp = rows.logSumExp.pointer[row * configuration.heads + head]
      _ = gk_exponentials(scores, position + 1, logSumExp, 1)
      (scores + position + 1).update(repeating: 0, count: keys - position - 1)
      (scratch.output.pointer + stackedRow * headDimension).update(
        from: outputGradient.pointer + row * queryStride + head * headDimension,
        count: headDimension)
    }
    let output = Factor(scratch.output.pointer, stride: headDimension)
    BLAS.multiply(
      Factor(probabilities, stride: keys, transposed: true), output, rows: keys,
      columns: headDimension, inner: stacked, into: gradients.value.pointer + keyStart,
      stride: keyStride, accumulating: true)
    BLAS.multiply(
      output, Factor(rows.value.pointer + keyStart, stride: keyStride, transposed: true),
      rows: stacked, columns: keys, inner: headDimension, into: scratch.scoreGradient.pointer,
      stride: keys)
    eachQuery(block, keyValueHead: keyValueHead) { row, head, _, stackedRow in
      // Σ probabilities · their gradients is the output times its gradient.
      let first = row * queryStride + head * headDimension
      let mean = gk_dot(
        rows.output.pointer + first, outputGradient.pointer + first, headDimension)
      gk_softmax_gradient(
        probabilities + stackedRow * keys, scratch.scoreGradient.pointer + stackedRow * keys, keys,
        mean)
    }
    BLAS.multiply(
      Factor(scratch.scoreGradient.pointer, stride: keys, transposed: true),
      Factor(scratch.query.pointer, stride: headDimension), rows: keys, columns: headDimension,
      inner: stacked, into: gradients.key.pointer + keyStart, stride: keyStride,
      accumulating: true)
    BLAS.multiply(
      Factor(scratch.scoreGradient.pointer, stride: keys),
      Factor(rows.key.pointer + keyStart, stride: keyStride), rows: stacked,
      columns: headDimension, inner: keys, into: scratch.queryGradient.pointer,
      stride: headDimension)
    eachQuery(block, keyValueHead: keyValueHead) { row, head, _, stackedRow in
      let gradient = gradients.query.pointer + row * queryStride + head * headDimension
      let unscaled = scratch.queryGradient.pointer + stackedRow * headDimension
      for i in 0..<headDimension { gradient[i] = unscaled[i] * scale }
    }
  }
}
